"""How much boxes overlap, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def iou_matrix(
    boxes_xyxy: NDArray[np.number], others_xyxy: NDArray[np.number], *, of_first: bool = False
) -> NDArray[np.float64]:
    """Every box with every other one.

    ``of_first`` takes the area of each first box, (N, 4), in place of its union with each of the others, (M,
    4).

    Returns:
        (N, M) intersections as a share of the union; 0 where that has no area.
    """
    first, second = boxes_xyxy[:, None].astype(np.float64), others_xyxy[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    both = np.clip(sides, 0, None).prod(axis=-1)
    area, other = (np.clip(one[..., 2:] - one[..., :2], 0, None).prod(axis=-1) for one in (first, second))
    total = np.broadcast_to(area, both.shape) if of_first else area + other - both
    return np.divide(both, total, out=np.zeros_like(both), where=total > 0)
