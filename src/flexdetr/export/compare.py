"""What a difference between two answers looks like, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import floors, pair
from flexdetr.runtime.parity import Tolerance


def explain(
    reference: Sequence[Detections], answers: Sequence[Detections], tolerance: Tolerance, num_classes: int
) -> str | None:
    """A mistake around the network that turns the one answer into the other, in words; None if none does."""
    lowest = floors(reference, tolerance.floor)
    for shift in range(1, num_classes):
        moved = [_relabelled(one, shift, num_classes) for one in reference]
        if _equal(moved, answers, lowest, tolerance):
            by = shift if shift <= num_classes // 2 else shift - num_classes
            return f"labels are shifted by {by}: the class list does not begin where the model's head does"
    for what, change in (
        ("width and height are swapped where boxes become pixels", _sides_swapped),
        ("boxes are answered as y, x where they should be x, y", _axes_swapped),
    ):
        if _equal([change(one) for one in reference], answers, lowest, tolerance):
            return what
    return None


def _equal(
    expected: Sequence[Detections],
    answers: Sequence[Detections],
    lowest: Sequence[float],
    tolerance: Tolerance,
) -> bool:
    pairs = [pair(*three, tolerance.score) for three in zip(expected, answers, lowest, strict=True)]
    return all(
        not one.missing
        and not one.extra
        and not one.flipped.any()
        and one.score.max(initial=0) <= tolerance.score
        and one.box.max(initial=0) <= tolerance.box
        for one in pairs
    )


def _relabelled(one: Detections, shift: int, num_classes: int) -> Detections:
    return Detections(one.boxes_xyxy, one.scores, one.labels, one.names, (one.indices + shift) % num_classes)


def _sides_swapped(one: Detections) -> Detections:
    height, width = one.size or (1, 1)
    scale = np.array([height / width, width / height] * 2, np.float32)
    edge = np.array([height, width] * 2, np.float32)
    return Detections(
        np.minimum(one.boxes_xyxy * scale, edge), one.scores, one.labels, one.names, one.indices
    )


def _axes_swapped(one: Detections) -> Detections:
    return Detections(one.boxes_xyxy[:, [1, 0, 3, 2]], one.scores, one.labels, one.names, one.indices)
