"""Multi-head self-attention and the feed-forward networks of the encoder and the decoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Between the linear layers of tokens.
NONLINEARITIES: Final[Mapping[str, type[nn.Module]]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class SelfAttention(nn.Module):
    """Multi-head attention whose queries and keys carry a position and whose values do not.

    The same arithmetic as ``nn.MultiheadAttention(x + position, x + position, x)``, with the packed projection kept
    as two layers, so that the sum with the position is computed once and projected once.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        # Xavier over the packed (3 * width, width) matrix, as nn.MultiheadAttention draws it.
        bound = math.sqrt(6 / (4 * width))
        for layer in (self.query_key, self.value):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, position: Tensor | None, allowed: Tensor | None = None) -> Tensor:
        """Attend among tokens.

        Args:
            tokens: (B, S, D).
            position: (B, S, D) or (1, S, D), added to queries and keys only.
            allowed: (S, S) bool, True if a row may attend to a column; None allows all.

        Returns:
            (B, S, D).
        """
        batch, length, width = tokens.shape
        placed = tokens if position is None else tokens + position
        query, key = (
            self.query_key(placed).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        value = self.value(tokens).view(batch, length, self.heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.activation = activation()
        self.linear2 = nn.Linear(hidden, width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return self.linear2(self.activation(self.linear1(tokens)))


class SwiGLU(nn.Module):
    """A feed-forward network that one linear function gates by another (arXiv 2002.05202, eq. 6), with biases.

    Args:
        width: D.
        hidden: rows of the first layer; half of them are the gate.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        half = hidden // 2
        self.linear1 = nn.Linear(width, 2 * half)
        self.linear2 = nn.Linear(half, width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        gate, value = self.linear1(tokens).chunk(2, -1)
        return self.linear2(F.silu(gate) * value)


class MLP(nn.Module):
    """A chain of linear layers with an activation between them.

    Args:
        width: input channels.
        hidden: channels between layers.
        out: output channels.
        depth: number of linear layers.
        activation: between them.
    """

    def __init__(
        self, width: int, hidden: int, out: int, depth: int, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = activation()

    def start_at_zero(self) -> None:
        """Let the answer be 0 before anything is learnt."""
        for name in ("weight", "bias"):
            nn.init.zeros_(self.layers[-1].get_parameter(name))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def query_position(width: int, depth: int, activation: type[nn.Module]) -> MLP:
    """From reference boxes (B, Q, 4) to positions of queries (B, Q, D).

    Args:
        width: D.
        depth: linear layers: two with twice the width between them (RT-DETR), or more of one width (DEIM).
        activation: between them.
    """
    return MLP(4, 2 * width if depth == 2 else width, width, depth, activation)


def sine_position(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """The 2-D sine-cosine embedding of a feature map, row by row as the map is flattened.

    The published PyTorch and Paddle code builds it column by column, which is right for square maps only; this is the
    same on squares and right on rectangles.

    Args:
        height: rows.
        width: columns.
        channels: D, divisible by 4.
        like: a tensor that gives device and dtype.

    Returns:
        (1, height * width, D): sine and cosine of the row, then sine and cosine of the column.
    """
    count = channels // 4
    precise = torch.promote_types(like.dtype, torch.float32)
    omega = 10000.0 ** -(torch.arange(count, device=like.device, dtype=precise) / count)
    rows = torch.arange(height, device=like.device, dtype=precise)[:, None] * omega
    columns = torch.arange(width, device=like.device, dtype=precise)[:, None] * omega
    by_row = torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(height, width, 2 * count)
    by_column = torch.cat([columns.sin(), columns.cos()], -1)[None].expand(height, width, 2 * count)
    return torch.cat([by_row, by_column], -1).reshape(1, height * width, channels).to(like.dtype)
