"""Class-aware non-maximum suppression in numpy, for graphs that leave it to the host, as those of boards do."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.host import boxes_to_pixels, sigmoid

CANDIDATES = 30_000  # (box, class) pairs of an image that suppression looks at
_LOG = logging.getLogger(__name__)


class Limits(NamedTuple):
    """What a dense head's boxes are chosen by.

    Attributes:
        score: (box, class) pairs with a score above this are candidates, in [0, 1].
        iou: a candidate goes if its IoU with a better one of its class is above this, in [0, 1].
        max_detections: pairs that are kept at most.
    """

    score: float = 0.001
    iou: float = 0.7
    max_detections: int = 300


def suppress(
    boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], limits: Limits
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a box and a class that stay.

    Args:
        boxes_xyxy: (N, 4), in any unit.
        scores: (N, C); a box may stay with several classes.
        limits: see ``Limits``.

    Returns:
        Indices (K,) of boxes and (K,) of classes, best first.
    """
    box, label = np.nonzero(scores > limits.score)
    value = scores[box, label]
    order = np.argsort(-value, kind="stable")[:CANDIDATES]
    if len(order) < len(value):
        _LOG.info(
            "%d of %d boxes above the score %g are left out before suppression, the lowest; raise the score",
            len(value) - len(order), len(value), limits.score,
        )  # fmt: skip
    box, label = box[order], label[order]
    corners = boxes_xyxy[box].astype(np.float64)
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    of_class = {each: np.flatnonzero(label == each) for each in np.unique(label)}
    gone = np.zeros(len(box), bool)
    kept: list[int] = []
    for place in range(len(box)):
        if gone[place]:
            continue
        kept.append(place)
        if len(kept) == limits.max_detections:
            break
        others = of_class[label[place]]
        others = others[np.searchsorted(others, place, "right") :]
        low = np.maximum(corners[place, :2], corners[others, :2])
        high = np.minimum(corners[place, 2:], corners[others, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        gone[others[shared > limits.iou * (areas[place] + areas[others] - shared)]] = True
    return box[kept].astype(np.int64), label[kept].astype(np.int64)


def finish_dense(
    logits: NDArray[np.floating],
    boxes: NDArray[np.floating],
    height: int,
    width: int,
    limits: Limits,
    top: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """A dense head's answer for one picture.

    Args:
        logits: (N, C) of every cell.
        boxes: (N, 4) cxcywh as fractions of the picture.
        height: of the original picture, in pixels.
        width: of the same.
        limits: of scores and overlaps.
        top: detections to keep at most, and never more than the limits allow.

    Returns:
        Boxes xyxy in pixels (K, 4), clipped to the picture, scores (K,) and labels (K,), best first.
    """
    scores = sigmoid(logits.astype(np.float32, copy=False))
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    limits = limits._replace(max_detections=min(top, limits.max_detections))
    box, label = suppress(corners, scores, limits)
    return boxes_to_pixels(boxes[box], height, width), scores[box, label], label
