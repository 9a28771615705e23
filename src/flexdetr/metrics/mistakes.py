"""What a detector got right and wrong, one by one: missed objects, false alarms, wrong places, classes, duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from flexdetr.metrics.matching import FOUND_IOU
from flexdetr.runtime.overlaps import iou_matrix

if TYPE_CHECKING:
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.flat_arrays import FoundByImage

Kind = Literal["missed", "false alarm", "wrong place", "wrong class", "duplicate", "right"]
_NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
_NEAR = 0.1  # IoU from which on a wrong detection is about an object


@dataclass(frozen=True, eq=False)
class Mistake:
    """One detection beside the labels, or one object that was not found.

    Attributes:
        kind: which of the five mistakes; "right" if it is none.
        image: position of the image among the records.
        label: head index of the detection, or of the missed object.
        box_xyxy: (4,) of the detection or the missed object, pixels.
        score: of the detection; nan for a missed object.
        iou: with the nearest object that the kind is about; 0 if there is none.
        other: box_xyxy (4,) of that object.
    """

    kind: Kind
    image: int
    label: int
    box_xyxy: NDArray[np.float32]
    score: float
    iou: float = 0.0
    other: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Mistakes:
    """All that went right and wrong on a data set.

    Mistakes and detections that found an object stand image by image; ``kept`` is how many detections reached
    their class's threshold.
    """

    wrong: tuple[Mistake, ...]
    found: tuple[Mistake, ...]
    kept: int

    @property
    def right(self) -> int:
        """How many detections found an object."""
        return len(self.found)

    def of(self, kind: Kind) -> list[Mistake]:
        """The mistakes of one kind, the worst first: by score, and missed objects by size."""
        chosen = [mistake for mistake in self.wrong if mistake.kind == kind]
        return sorted(chosen, key=lambda one: -_area(one.box_xyxy) if kind == "missed" else -one.score)

    @property
    def duplicate_rate(self) -> float:
        """Share of the kept detections that found an object again; nan if nothing was kept."""
        return len(self.of("duplicate")) / self.kept if self.kept else float("nan")


def find_mistakes(
    ground_truth: Sequence[Record],
    detections: FoundByImage,
    thresholds: Sequence[float],
) -> Mistakes:
    """Compare detections with objects, image by image, best score first.

    Args:
        ground_truth: the labelled images.
        detections: by image id, boxes_xyxy (N, 4), scores (N,) and head indices (N,).
        thresholds: lowest score that counts, for each class of the head.
    """
    limits = np.asarray(thresholds, np.float64)
    all_found: list[Mistake] = []
    wrong: list[Mistake] = []
    kept = 0
    for index, record in enumerate(ground_truth):
        boxes, scores, labels = map(np.asarray, detections.get(record.image_id, _NOTHING))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= limits[labels[order]]]
        found, mistakes = _compare(index, record, boxes[order], scores[order], labels[order])
        kept += len(order)
        all_found += found
        wrong += mistakes
    return Mistakes(tuple(wrong), tuple(all_found), kept)


def _compare(
    index: int,
    record: Record,
    boxes: NDArray[np.float32],
    scores: NDArray[np.floating],
    labels: NDArray[np.int64],
) -> tuple[list[Mistake], list[Mistake]]:
    """Detections that found an object, and mistakes."""
    overlaps = iou_matrix(boxes, record.boxes_xyxy)
    same = labels[:, None] == record.labels[None, :]
    free = ~record.iscrowd
    taken_by = np.full(len(labels), -1)
    for place in range(len(labels)):
        fits = np.where(same[place] & free & (overlaps[place] >= FOUND_IOU), overlaps[place], -1)
        if fits.size and fits.max() >= 0:
            taken_by[place] = int(fits.argmax())
            free[taken_by[place]] = False
    mistakes = []
    for place in np.flatnonzero(taken_by < 0).tolist():
        if (same[place] & record.iscrowd & (overlaps[place] > 0)).any():
            continue  # inside a crowd of its class nothing is wrong
        kind, nearest = _explain(overlaps[place], same[place], free)
        other = record.boxes_xyxy[nearest] if nearest >= 0 else None
        share = float(overlaps[place][nearest]) if nearest >= 0 else 0.0
        mistakes.append(
            Mistake(kind, index, int(labels[place]), boxes[place], float(scores[place]), share, other)
        )
    for place in np.flatnonzero(free).tolist():
        mistakes.append(
            Mistake("missed", index, int(record.labels[place]), record.boxes_xyxy[place], float("nan"))
        )
    right = [
        Mistake(
            "right",
            index,
            int(labels[place]),
            boxes[place],
            float(scores[place]),
            float(overlaps[place][taken_by[place]]),
            record.boxes_xyxy[taken_by[place]],
        )
        for place in np.flatnonzero(taken_by >= 0).tolist()
    ]
    return right, mistakes


def _explain(
    overlaps: NDArray[np.floating], same: NDArray[np.bool_], free: NDArray[np.bool_]
) -> tuple[Kind, int]:
    """The kind of a wrong detection and the object that it is about, -1 for none."""
    if not overlaps.size:
        return "false alarm", -1
    taken = np.where(same & ~free, overlaps, 0)
    if taken.max() >= FOUND_IOU:
        return "duplicate", int(taken.argmax())
    confused = np.where(~same, overlaps, 0)
    if confused.max() >= FOUND_IOU:
        return "wrong class", int(confused.argmax())
    own = np.where(same, overlaps, 0)
    if own.max() >= _NEAR:
        return "wrong place", int(own.argmax())
    return "false alarm", -1


def _area(box_xyxy: NDArray[np.float32]) -> float:
    return float((box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1]))
