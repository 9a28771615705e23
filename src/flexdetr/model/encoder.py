"""The hybrid encoder: attention within the coarsest level (AIFI), then fusion across levels (CCFF).

RT-DETR, arXiv 2304.08069, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.fusion import FUSIONS
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


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: three chained 5x5 max pools, concatenated. A convolution-only intra block."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.width // 2
        self.squeeze = ConvBNAct(config.width, hidden, 1, act="silu")
        self.expand = ConvBNAct(4 * hidden, config.width, 1, act="silu")

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        pools = [self.squeeze(level)]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, stride=1, padding=2))
        return self.expand(torch.cat(pools, 1))


def _no_intra(config: EncoderConfig) -> nn.Module:  # noqa: ARG001 - a row of INTRA like the others
    return nn.Identity()


INTRA: Final[Mapping[str, Callable[[EncoderConfig], nn.Module]]] = {
    "aifi": AIFI,
    "sppf": SPPF,
    "none": _no_intra,
}


class HybridEncoder(nn.Module):
    """Brings every level to one width, mixes within the coarsest and across all.

    Args:
        channels: channels of the backbone's levels, finest first.
        config: the encoder's section.
        inserts: attention modules by stride, applied to the encoder's output level of that stride.
    """

    def __init__(
        self, channels: Sequence[int], config: EncoderConfig, inserts: Mapping[int, nn.Module] | None = None
    ) -> None:
        super().__init__()
        width, fusion = config.width, FUSIONS[config.fusion]
        steps = len(channels) - 1
        self.strides = config.strides
        self.input_proj = nn.ModuleList(ConvBNAct(count, width, 1, act=None) for count in channels)
        self.intra = INTRA[config.intra](config)
        self.lateral = nn.ModuleList(fusion.lateral(width) for _ in range(steps))
        self.top_down = nn.ModuleList(fusion.block(config) for _ in range(steps))
        self.downsample = nn.ModuleList(fusion.downsample(width) for _ in range(steps))
        self.bottom_up = nn.ModuleList(fusion.block(config) for _ in range(steps))
        self.inserts = nn.ModuleDict({str(stride): insert for stride, insert in (inserts or {}).items()})

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels (B, C_l, h_l, w_l) -> encoder levels (B, D, h_l, w_l), finest first."""
        levels = [project(level) for project, level in zip(self.input_proj, features, strict=True)]
        levels[-1] = self.intra(levels[-1])
        for step, (lateral, block) in enumerate(zip(self.lateral, self.top_down, strict=True)):
            coarse = len(levels) - 1 - step
            # The bottom-up path re-uses the lateral's output, not its input.
            levels[coarse] = lateral(levels[coarse])
            fine = levels[coarse - 1]
            raised = F.interpolate(levels[coarse], size=fine.shape[-2:], mode="nearest")
            levels[coarse - 1] = block(torch.cat([raised, fine], 1))
        for fine, (down, block) in enumerate(zip(self.downsample, self.bottom_up, strict=True)):
            levels[fine + 1] = block(torch.cat([down(levels[fine]), levels[fine + 1]], 1))
        if self.inserts:
            levels = [
                self.inserts[str(stride)](level) if str(stride) in self.inserts else level
                for stride, level in zip(self.strides, levels, strict=True)
            ]
        return levels
