"""D-FINE's decoder layer and the heads behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flexdetr.model.deformable import DeformableAttention
from flexdetr.model.distances import LargestShares
from flexdetr.model.heads.base import Shapes
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.selection import RARE
from flexdetr.model.self_attention import MLP, NONLINEARITIES, FeedForward, SelfAttention, SwiGLU


class TargetGate(nn.Module):
    """Weighs what a query was against what it has attended to, channel by channel, and normalises their sum.

    It stands in for a residual sum and its norm, so that a query can let go of what it looked at before its box
    moved (D-FINE, arXiv 2410.13842, section A.1). Both weights are a half at the start.
    """

    def __init__(self, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, 2 * width)
        self.norm = norm
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, query: Tensor, attended: Tensor) -> Tensor:
        """(B, Q, D) twice -> (B, Q, D)."""
        weights = self.gate(torch.cat([query, attended], -1)).sigmoid()
        kept, taken = weights.chunk(2, -1)
        return self.norm(kept * query + taken * attended)


def decoder_norm(config: DFINEOptions) -> nn.Module:
    """The norm that the options name."""
    return nn.RMSNorm(config.width, eps=1e-6) if config.norm == "rms" else nn.LayerNorm(config.width)


class DecoderLayer(nn.Module):
    """Self-attention among queries, gated deformable attention to the memory, feed-forward.

    The memory's channels are divided among the heads as they are, without a projection of values or of the result.
    The published code clamps the last sum to half precision's range; here norms, and what leaves that range, compute in
    float32 in every half-precision form.
    """

    def __init__(self, config: DFINEOptions, points: Sequence[int]) -> None:
        super().__init__()
        width = config.width
        self.attention = SelfAttention(width, config.heads)
        self.norm1 = decoder_norm(config)
        self.cross_attention = DeformableAttention(
            width, config.heads, points, config.sampling, projected=False
        )
        self.gate = TargetGate(width, decoder_norm(config)) if config.gate else None
        self.norm2 = None if config.gate else decoder_norm(config)
        self.feed_forward = (
            SwiGLU(width, config.ffn)
            if config.feed_forward == "swiglu"
            else FeedForward(width, config.ffn, NONLINEARITIES[config.activation])
        )
        self.norm3 = decoder_norm(config)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        allowed: Tensor | None,
    ) -> Tensor:
        """(B, Q, D) queries, their (B, Q, D) positions and (B, Q, 4) reference boxes -> (B, Q, D)."""
        query = self.norm1(query + self.attention(query, position, allowed))
        attended = self.cross_attention(query + position, reference, memory, shapes)
        if self.gate is not None:
            query = self.gate(query, attended)
        elif self.norm2 is not None:
            query = self.norm2(query + attended)
        return self.norm3(query + self.feed_forward(query))


class QualityEstimator(nn.Module):
    """How well a box is known, from how peaked the distributions of its edges are (D-FINE's LQE).

    The largest shares of each edge's distribution, and their mean, become one number that is added to every class.
    """

    def __init__(self, activation: type[nn.Module], top: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.largest = LargestShares(top)
        self.mlp = MLP(4 * (top + 1), hidden, 1, 2, activation)
        self.mlp.start_at_zero()

    def forward(self, corners: Tensor) -> Tensor:
        """Logits (B, Q, 4 * bins) -> (B, Q, 1)."""
        shares = torch.unflatten(corners, -1, (4, -1)).softmax(-1)
        largest = self.largest(shares)
        seen = torch.cat([largest, largest.mean(-1, keepdim=True)], -1).flatten(-2)
        return self.mlp(seen)


class ScoreHead(nn.Module):
    """Class logits of a layer: a linear layer of the query, and the quality of its box."""

    def __init__(self, width: int, num_classes: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)
        self.quality = QualityEstimator(activation)
        nn.init.constant_(self.linear.bias, RARE)

    def forward(self, query: Tensor, corners: Tensor) -> Tensor:
        """(B, Q, D) and corner logits (B, Q, 4 * bins) -> (B, Q, C)."""
        return self.linear(query) + self.quality(corners)
