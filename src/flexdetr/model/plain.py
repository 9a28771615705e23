"""Parts of a detector as plain operations: fixed shapes, one picture, no tensor of more than four axes, for boards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flexdetr.model.aifi import AIFI
from flexdetr.model.deformable import DeformableAttention
from flexdetr.model.distances import EdgeDistributions, LargestShares
from flexdetr.model.self_attention import SelfAttention, sine_position

Shapes = list[tuple[int, int]]


class PlainNorm(nn.Module):
    """A layer norm spelt out, for toolchains that do not know it as one operation.

    ``norm`` is one over the last axis, or timm's ``LayerNorm2d`` over the second of four.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        planes = type(norm).__name__ == "LayerNorm2d"
        self.axis = 1 if planes else -1
        shape = (-1, 1, 1) if planes else (-1,)
        self.weight, self.bias = (
            nn.Parameter(part.detach().reshape(shape)) for part in (norm.weight, norm.bias)
        )
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        centred = x - x.mean(self.axis, keepdim=True)
        spread = (centred * centred).mean(self.axis, keepdim=True)
        return centred / (spread + self.eps).sqrt() * self.weight + self.bias


class PlainRMSNorm(nn.Module):
    """A norm by the root of the mean square, spelt out."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.eps = norm.eps or torch.finfo(torch.float32).eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        return x / ((x * x).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


class PlainLargest(nn.Module):
    """The largest shares of each row without a sort: the largest, which is taken away, and again.

    Of equal ones the first is taken away. What equals the largest is told by arithmetic: the distance from it is
    multiplied until it is 1 or 0 also in half precision.

    Args:
        largest: how many of how many.
        bins: values of a row.
    """

    def __init__(self, largest: LargestShares, bins: int) -> None:
        super().__init__()
        self.count = largest.count
        self.register_buffer("before", torch.ones(bins, bins).triu())

    def forward(self, shares: Tensor) -> Tensor:
        """(..., N) values in [0, 1] -> (..., count)."""
        found = [shares.amax(-1, keepdim=True)]
        while len(found) < self.count:
            differs = ((found[-1] - shares) * 6e4 * 6e4).clamp(0, 1)
            equal = 1 - differs
            place = equal @ self.get_buffer("before")  # 1 at the first of the equal ones, 2 at the next
            shares = shares - 2 * equal * (2 - place).clamp(0, 1)
            found.append(shares.amax(-1, keepdim=True))
        return torch.cat(found, -1)


class PlainAttention(nn.Module):
    """Self-attention of one picture as products of (H, S, D / H), without a mask."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        packed = attention.query_key
        width = packed.in_features
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        scale = (width // self.heads) ** -0.5
        with torch.no_grad():
            self.query.weight.copy_(packed.weight[:width] * scale)
            self.query.bias.copy_(packed.bias[:width] * scale)
            self.key.weight.copy_(packed.weight[width:])
            self.key.bias.copy_(packed.bias[width:])
        self.value, self.output = attention.value, attention.output

    def forward(self, tokens: Tensor, position: Tensor | None, allowed: Tensor | None = None) -> Tensor:
        """(1, S, D) tokens and positions -> (1, S, D)."""
        del allowed  # a mask is for training only
        length, width = tokens.shape[1:]
        placed = tokens if position is None else tokens + position
        split = (length, self.heads, width // self.heads)
        query = self.query(placed).reshape(split).transpose(0, 1)
        key = self.key(placed).reshape(split).permute(1, 2, 0)
        value = self.value(tokens).reshape(split).transpose(0, 1)
        mixed = (query @ key).softmax(-1) @ value
        return self.output(mixed.transpose(0, 1).reshape(1, length, width))


class PlainAIFI(nn.Module):
    """AIFI on a level of fixed size: its positions are numbers of the graph."""

    position: Tensor

    def __init__(self, intra: AIFI, shape: tuple[int, int]) -> None:
        super().__init__()
        self.layers = intra.layers
        width = int(intra.layers[0].feed_forward.linear1.in_features)  # type: ignore[union-attr, arg-type]
        self.register_buffer("position", sine_position(*shape, width, like=torch.zeros(1)))

    def forward(self, level: Tensor) -> Tensor:
        """(1, D, h, w) -> (1, D, h, w)."""
        tokens = level.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, self.position)
        return tokens.transpose(1, 2).reshape(level.shape)


class PlainSampling(nn.Module):
    """Deformable attention with one gather of rows: all levels, points and corners of one picture at once.

    Sampling places are computed as (1, Q, H P), horizontal and vertical apart, and become whole cells before they are
    multiplied: an index has to be exact also where the board computes in half precision.
    """

    def __init__(self, attention: DeformableAttention, shapes: Shapes) -> None:
        super().__init__()
        self.heads, self.discrete = attention.heads, attention.sampling == "discrete"
        self.points = sum(attention.points)
        self.across, self.down = (_every_second(attention.offsets, first) for first in (0, 1))
        self.weights, self.value, self.output = attention.weights, attention.value, attention.output
        counts = torch.tensor(attention.points)

        def each(numbers: list[float] | list[int]) -> Tensor:
            """A number per level -> a number per head and point."""
            return torch.tensor(numbers).repeat_interleave(counts).repeat(self.heads)

        starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
        self.register_buffer("rows", each([float(h) for h, _ in shapes]))
        self.register_buffer("columns", each([float(w) for _, w in shapes]))
        self.register_buffer("stride", each([w * self.heads for _, w in shapes]))
        head = torch.arange(self.heads).repeat_interleave(self.points)
        self.register_buffer("start", each([start * self.heads for start in starts]) + head)
        self.register_buffer("share", attention.point_share.reshape(-1).repeat(self.heads) * 0.5)

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes) -> Tensor:
        """(1, Q, D), (1, Q, 4) cxcywh fractions and (1, S, D) -> (1, Q, D)."""
        del shapes  # fixed
        length, width = query.shape[1:]
        rows = self.value(memory).reshape(-1, width // self.heads)
        weights = self.weights(query).reshape(-1, self.points).softmax(-1).reshape(1, length, -1)
        share, columns, row_count = (self.get_buffer(name) for name in ("share", "columns", "rows"))
        x = (reference[..., 0:1] + self.across(query) * share * reference[..., 2:3]) * columns
        y = (reference[..., 1:2] + self.down(query) * share * reference[..., 3:4]) * row_count
        cells, shares = [], []
        for row, share_y in self._corners(y, row_count):
            for column, share_x in self._corners(x, columns):
                cells.append(self._cell(row, column))
                shares.append(weights if share_x is None or share_y is None else share_y * share_x * weights)
        group = length * self.heads
        index = torch.cat([cell.reshape(group, self.points) for cell in cells], -1)
        amount = torch.cat([one.reshape(group, 1, self.points) for one in shares], -1)
        taken = rows.index_select(0, index.reshape(-1)).reshape(group, index.shape[1], -1)
        return self.output((amount @ taken).reshape(1, length, width))

    def _cell(self, row: Tensor, column: Tensor) -> Tensor:
        """Whole numbers of a row and a column -> the row of the gather."""
        stride, start = self.get_buffer("stride"), self.get_buffer("start")
        return row.long() * stride + column.long() * self.heads + start

    def _corners(self, place: Tensor, count: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Cells around a place in cells, kept inside, and their weights, which are 0 outside."""
        last = count - 1
        if self.discrete:
            return [(_between((place + 0.5).floor(), last), None)]
        before = (place - 0.5).floor()
        after, beyond = before + 1, place - 0.5 - before
        # Whether a point is outside is computed with arithmetic: many boards have no boolean operators.
        return [
            (_between(cell, last), share * (cell + 1).clamp(0, 1) * (count - cell).clamp(0, 1))
            for cell, share in ((before, 1 - beyond), (after, beyond))
        ]


def make_plain(detector: nn.Module, shapes: Shapes, *, plain_norms: bool) -> None:
    """Put the plain form of each part in its place, everywhere in a detector.

    ``shapes`` are (height, width) of the levels, finest first.
    """
    bins = next((len(part.bins) for part in detector.modules() if isinstance(part, EdgeDistributions)), 0)

    def plain(part: nn.Module) -> nn.Module | None:
        if isinstance(part, AIFI):
            return PlainAIFI(part, shapes[-1])
        if isinstance(part, SelfAttention):
            return PlainAttention(part)
        if isinstance(part, DeformableAttention):
            return PlainSampling(part, shapes)
        if isinstance(part, LargestShares):
            return PlainLargest(part, bins)
        if isinstance(part, nn.RMSNorm):
            return PlainRMSNorm(part)
        known = type(part).__name__ in ("LayerNorm", "LayerNorm2d")
        if plain_norms and known and isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            return PlainNorm(part)
        return None

    _replace(detector, plain)


def _replace(module: nn.Module, plain: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put the plain form of each part in its place, parts of parts first."""
    for name, part in list(module.named_children()):
        _replace(part, plain)
        form = plain(part)
        if form is not None:
            setattr(module, name, form)


def _every_second(linear: nn.Linear, first: int) -> nn.Linear:
    """The half of a layer that answers x (first 0) or y (first 1)."""
    half = nn.Linear(linear.in_features, linear.out_features // 2)
    with torch.no_grad():
        half.weight.copy_(linear.weight[first::2])
        half.bias.copy_(linear.bias[first::2])
    return half


def _between(cell: Tensor, last: Tensor) -> Tensor:
    """Kept within 0 to last, exactly for whole numbers; rknn-toolkit2 does not lower the smaller of two tensors."""
    inside = cell.relu()
    return inside - (inside - last).relu()
