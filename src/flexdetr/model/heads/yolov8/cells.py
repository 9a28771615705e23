"""Cells of a dense head, and boxes as distributions of the distances from a cell's centre to four edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexdetr.model.heads.selection import cell_centres


def cell_boxes(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """The cells of all levels as boxes.

    ``shapes`` are (height, width) of each level, finest first; ``like`` gives the device, and the type where
    that is wider than float32.

    Returns:
        (N, 4) cxcywh fractions of the image: level after level, rows first.
    """
    parts = []
    for height, width in shapes:
        centre = cell_centres(height, width, like)
        side = centre.new_tensor([1 / width, 1 / height]).expand(height, width, 2)
        parts.append(torch.cat([centre, side], -1).flatten(0, 1))
    return torch.cat(parts)


def expectation(logits: Tensor, bins: Tensor | None = None) -> Tensor:
    """The mean of a distribution over 0, 1, ..., bins - 1 (generalised focal loss, arXiv 2006.04388, eq. 5).

    Args:
        logits: (..., bins).
        bins: 0, 1, ..., bins - 1, where a graph holds them as a constant; None makes them.

    Returns:
        (...), in the unit of a bin.
    """
    if bins is None:
        bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * bins).sum(-1)


def decode(distances: Tensor, cells: Tensor) -> Tensor:
    """Boxes from distances.

    Args:
        distances: (..., N, 4) to left, top, right and bottom, in sides of the cell.
        cells: (N, 4) or (..., N, 4) cxcywh, see ``cell_boxes``.

    Returns:
        (..., N, 4) cxcywh, in the unit of ``cells``.
    """
    left_top, right_bottom = distances[..., :2], distances[..., 2:]
    side = cells[..., 2:]
    return torch.cat(
        [cells[..., :2] + (right_bottom - left_top) / 2 * side, (left_top + right_bottom) * side], -1
    )
