"""Attention within a level: attention-based intra-scale feature interaction (RT-DETR, 2304.08069, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.self_attention import FeedForward, SelfAttention, sine_position


class EncoderLayer(nn.Module):
    """A transformer encoder layer, normalised after each residual sum."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, nn.GELU)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        tokens = self.norm1(tokens + self.attention(tokens, position))
        return self.norm2(tokens + self.feed_forward(tokens))


class AIFI(nn.Module):
    """Attention-based intra-scale feature interaction: encoder layers on one level's tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, config.ffn) for _ in range(config.intra_layers)
        )

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        channels, height, width = level.shape[1:]
        tokens = level.flatten(2).transpose(1, 2)
        position = sine_position(height, width, channels, like=tokens)
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).reshape(-1, channels, height, width)
