"""How far one answer is from another: detections paired as sets, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.detections import Detections
from flexdetr.runtime.overlaps import iou_matrix
from flexdetr.runtime.parity import Drift, Tolerance

# Detections that overlap less are not the same object's.
SAME_PLACE = 0.5
# If nothing scores above the floor (a model that was not trained), so many of each picture are compared.
BEST = 10


@dataclass(frozen=True)
class PairedDetections:
    """Detections of two detectors on one picture, paired.

    Attributes:
        first: (M,) positions in the first's detections.
        second: (M,) positions in the second's.
        score: (M,) absolute differences of the scores.
        box: (M,) largest absolute difference of a box side, in pixels.
        flipped: (M,) whether the classes differ.
        missing: how many of the first's detections above the floor have no partner.
        extra: how many of the second's.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    score: NDArray[np.float64]
    box: NDArray[np.float64]
    flipped: NDArray[np.bool_]
    missing: int
    extra: int


def pair(first: Detections, second: Detections, floor: float, slack: float = 0.0) -> PairedDetections:
    """Pair detections one to one, by place, score and class; their order does not matter.

    Args:
        first: what should be found.
        second: what was found.
        floor: detections of the first with a higher score need a partner, and those of the second whose score is
            higher by ``slack``.
        slack: see above: a score that drifts over the floor is no extra detection.
    """
    # Candidates may score less: the partner of a detection just above the floor may lie just below.
    a, b = (np.flatnonzero(one.scores > 0.5 * floor) for one in (first, second))
    overlap, score, flipped = _differences(first[a], second[b])
    rows, columns = _closest(1 - overlap + score + 0.5 * flipped)
    same = overlap[rows, columns] > SAME_PLACE
    rows, columns = rows[same], columns[same]
    wanted, found = first.scores[a] > floor, second.scores[b] > floor + slack
    missing = int(wanted.sum() - wanted[rows].sum())
    extra = int(found.sum() - found[columns].sum())
    counted = wanted[rows] | found[columns]
    rows, columns = rows[counted], columns[counted]
    box = np.abs(first.boxes_xyxy[a[rows]].astype(np.float64) - second.boxes_xyxy[b[columns]]).max(
        -1, initial=0.0
    )
    return PairedDetections(
        a[rows], b[columns], score[rows, columns], box, flipped[rows, columns], missing, extra
    )


def matching_costs(first: Detections, second: Detections) -> NDArray[np.float64]:
    """(N, M) what is off where the second's detection is taken for the first's: place, score and class."""
    overlap, score, flipped = _differences(first, second)
    return 1 - overlap + score + 0.5 * flipped


def _differences(
    first: Detections, second: Detections
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(N, M) IoU, absolute difference of scores, and whether the classes differ."""
    score = np.abs(first.scores[:, None].astype(np.float64) - second.scores[None])
    flipped = first.indices[:, None] != second.indices[None]
    return _iou(first.boxes_xyxy, second.boxes_xyxy), score, flipped


def _closest(cost: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns paired one to one, the cheapest pair first.

    Answers that are nearly the same are paired as by the cheapest sum; SciPy, which finds that, is no part of a base
    install.
    """
    rows, columns = np.unravel_index(np.argsort(cost, axis=None, kind="stable"), cost.shape)
    free_rows, free_columns = (np.ones(count, bool) for count in cost.shape)
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
            if len(pairs) == min(cost.shape):
                break
    first, second = np.array(pairs, np.intp).reshape(-1, 2).T
    return first, second


def floors(reference: Sequence[Detections], floor: float) -> list[float]:
    """The score above which each picture's detections are compared.

    It is ``floor``, unless no detection of any picture reaches it: a proof without detections would prove nothing, so
    that then each picture's best are compared.
    """
    if any((one.scores > floor).any() for one in reference):
        return [floor] * len(reference)
    return [
        float(np.sort(one.scores)[::-1][min(BEST, len(one)) - 1]) * 0.999 if len(one) else floor
        for one in reference
    ]


def drift(
    case: str, reference: Sequence[Detections], answers: Sequence[Detections], tolerance: Tolerance
) -> Drift:
    """The drift over some pictures."""
    lowest = floors(reference, tolerance.floor)
    pairs = [
        pair(one, other, floor, tolerance.score)
        for one, other, floor in zip(reference, answers, lowest, strict=True)
    ]
    score = np.concatenate([one.score for one in pairs])
    box = np.concatenate([one.box for one in pairs])
    missing, extra = sum(one.missing for one in pairs), sum(one.extra for one in pairs)
    flips = int(sum(one.flipped.sum() for one in pairs))
    worst_score, worst_box = float(score.max(initial=0.0)), float(box.max(initial=0.0))
    off = sum(
        int((one.flipped | (one.score > tolerance.score) | (one.box > tolerance.box)).sum()) for one in pairs
    )
    wrong = missing + extra + off > tolerance.share * (len(score) + missing)
    return Drift(
        case=case,
        pictures=len(reference),
        compared=len(score) + missing,
        floor=min(lowest, default=tolerance.floor),
        missing=missing,
        extra=extra,
        flips=flips,
        score=worst_score,
        box=worst_box,
        mean_score=float(score.mean()) if len(score) else 0.0,
        mean_box=float(box.mean()) if len(box) else 0.0,
        passed=not wrong,
    )


def _iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) xyxy -> (N, M)."""
    # Two boxes without area in the same place are the same box.
    equal = np.abs(first[:, None].astype(np.float64) - second[None]).max(-1, initial=0) < 1e-6
    return np.where(equal, 1.0, iou_matrix(first, second))
