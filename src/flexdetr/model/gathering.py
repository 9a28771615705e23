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
        left, top = x.floor(), y.floor()
        for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
            for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
                inside = (row >= 0) & (row <= rows - 1) & (column >= 0) & (column <= columns - 1)
                cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1) + start
                cells.append(cell)
                shares.append(share_y * share_x * inside.to(place.dtype) * weight)
        start = start + rows * columns
    cell = torch.cat(cells, -1).long()  # (B, Q, H, 4 P)
    share = torch.cat(shares, -1).to(value.dtype)
    image = torch.arange(batch, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[:, None]
    index = (image * tokens + cell) * heads + head
    taken = value.reshape(-1, width)[index.flatten()].reshape(-1, cell.shape[-1], width)
    mixed = share.reshape(-1, 1, cell.shape[-1]) @ taken
    return mixed.reshape(batch, queries, heads * width)
