"""Deformable sampling with plain gathers: for runtimes and converters without GridSample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather_rows(
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    shapes: Sequence[tuple[int, int]],
    points: Sequence[int],
) -> Tensor:
    """The weighted sum of bilinear samples as one gather of rows and one product of matrices.

    Bilinear interpolation with zeros outside is the sum of four cells with weights of their own; they are multiplied
    into the attention weights, so that all levels, points and corners are read in one gather.

    Args:
        value: (B, S, H, D / H), levels one after the other, rows first.
        locations: (B, Q, H, P, 2) xy fractions, P over all levels.
        weights: (B, Q, H, P), summing to 1 over P.
        shapes: (height, width) of each level.
        points: sampling points on each level; they sum to P.

    Returns:
        (B, Q, D).
    """
    batch, tokens, heads, width = value.shape
    queries = locations.shape[1]
    cells, shares = [], []
    start = 0
    for (rows, columns), place, weight in zip(
        shapes,
        torch.split(locations, list(points), dim=3),
        torch.split(weights, list(points), dim=3),
        strict=True,
    ):
        x, y = place[..., 0] * columns - 0.5, place[..., 1] * rows - 0.5
        across, down = _neighbours(x, columns), _neighbours(y, rows)
        for row, share_y in down:
            for column, share_x in across:
                cells.append(row * columns + column + start)
                shares.append(share_y * share_x * weight)
        start = start + rows * columns
    cell = torch.cat(cells, -1).long()  # (B, Q, H, 4 P)
    share = torch.cat(shares, -1).to(value.dtype)
    image = torch.arange(batch, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[:, None]
    index = (image * tokens + cell) * heads + head
    taken = value.reshape(-1, width)[index.flatten()].reshape(-1, cell.shape[-1], width)
    mixed = share.reshape(-1, 1, cell.shape[-1]) @ taken
    return mixed.reshape(batch, queries, heads * width)


def _neighbours(x: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """The cells before and behind a position, kept inside 0 to count - 1, with their weights; none for one outside."""
    before = x.floor()
    both = ((before, before + 1 - x), (before + 1, x - before))
    return [
        (cell.clamp(0, count - 1), share * ((cell >= 0) & (cell <= count - 1)).to(x.dtype))
        for cell, share in both
    ]
