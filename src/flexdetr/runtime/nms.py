"""Class-aware non-maximum suppression in numpy, for graphs that leave it to the host, as those of boards do.

This file travels with the artifact of a dense head for a board, beside ``host.py``. A picture is resized to the
network's size, given to ``encode`` as float32 (1, 3, H, W) with values 0 to 255, and then, with the limits that
``metadata.json`` names under ``suppression``:

    logits, boxes = encode(picture)
    scores = sigmoid(logits[0])
    box, label = suppress(corners(boxes[0]), scores, Limits(score, iou, max_detections))
    boxes_xyxy, scores = boxes_to_pixels(boxes[0][box], height, width), scores[box, label]
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def corners(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 4) cxcywh -> (N, 4) xyxy, in the same unit."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def suppress(
    boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], limits: Limits
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a box and a class that stay.

    ``boxes_xyxy`` (N, 4) are in any unit; with ``scores`` (N, C) a box may stay with several classes.

    Returns:
        Indices (K,) of boxes and (K,) of classes, best first.
    """
    box, label = np.nonzero(scores > limits.score)
    value = scores[box, label]
    order = np.argsort(-value, kind="stable")[:CANDIDATES]
    if len(order) < len(value):
        log_unseen(len(value) - len(order), len(value), limits.score)
    box, label = box[order], label[order]
    edges = boxes_xyxy[box].astype(np.float64)
    areas = np.prod(edges[:, 2:] - edges[:, :2], axis=1)
    of_class = {each: np.flatnonzero(label == each) for each in np.unique(label)}
    gone = np.zeros(len(box), bool)
    kept: list[int] = []
    # How many more would stay is counted for the log alone, which is most of the work in a crowd.
    counted = _LOG.isEnabledFor(logging.INFO)
    for place in range(len(box)):
        if gone[place]:
            continue
        kept.append(place)
        if len(kept) == limits.max_detections and not counted:
            break
        others = of_class[label[place]]
        others = others[np.searchsorted(others, place, "right") :]
        low = np.maximum(edges[place, :2], edges[others, :2])
        high = np.minimum(edges[place, 2:], edges[others, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        gone[others[shared > limits.iou * (areas[place] + areas[others] - shared)]] = True
    if len(kept) > limits.max_detections:
        first = kept[limits.max_detections]
        log_dropped(len(kept) - limits.max_detections, float(value[order[first]]), limits.max_detections)
        del kept[limits.max_detections :]
    return box[kept].astype(np.int64), label[kept].astype(np.int64)


def log_unseen(unseen: int, candidates: int, score: float) -> None:
    """Say, in the log, that suppression did not look at all candidates of the pictures."""
    _LOG.info(
        "%d of %d boxes above the score %g are left out before suppression, the lowest; raise the score",
        unseen, candidates, score,
    )  # fmt: skip


def log_dropped(dropped: int, best: float, kept: int) -> None:
    """Say, in the log, that suppression left more boxes of a picture than are answered.

    ``best`` is the highest score among the ``dropped``; ``kept`` are answered.
    """
    _LOG.info(
        "%d boxes that suppression left are dropped, with scores up to %.3g: %d of a picture are kept at most "
        "(max_detections)",
        dropped, best, kept,
    )  # fmt: skip
