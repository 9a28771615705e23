"""What a detector confuses, and what each score threshold would cost: confusion matrix, precision, recall, F1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexdetr.metrics.flat_arrays import FoundByImage, gather
from flexdetr.metrics.matching import FOUND_IOU, AllDetections, Objects, match, overlapping_pairs

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.data.dataset import Record

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Confusion:
    """Objects and detections counted by class.

    Attributes:
        names: the C classes.
        counts: (C + 1, C + 1) int64; row: the object's class, column: the detection's class. The last row
            holds detections if there is no object, the last column objects that were missed.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The names of rows and columns, and the counts row by row."""
        return {"names": [*self.names, BACKGROUND], "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision, recall and F1 of one class, as functions of the score threshold.

    Attributes:
        thresholds: (N,) scores, ascending.
        precision: (N,) share of detections at or above the threshold that are right; nan if there is none.
        recall: (N,) share of objects found.
        f1: (N,) harmonic mean of the two, 0 if nothing right is found.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """One class's detections in all images, best score first, each known to be right or wrong.

    Which object a detection takes depends on better ones only, so that one matching serves all thresholds.

    Attributes:
        scores: (N,) descending.
        right: (N,) bool, whether the detection found an object that no better one had taken.
        num_objects: objects to find; crowds, and detections inside them, do not count.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    num_objects: int

    def at(self, thresholds: ArrayLike) -> Curve:
        """Precision, recall and F1 if only detections with at least these scores were kept."""
        wanted = np.asarray(thresholds, np.float64)
        kept = np.searchsorted(-self.scores, -wanted, side="right")
        true = np.concatenate([[0], np.cumsum(self.right)])[kept]
        nan = np.full(wanted.shape, math.nan)
        precision = np.divide(true, kept, out=nan.copy(), where=kept > 0)
        if not self.num_objects:
            return Curve(wanted, precision, nan, nan)
        return Curve(wanted, precision, true / self.num_objects, 2 * true / (kept + self.num_objects))

    def best_threshold(self) -> float:
        """The threshold of the highest F1, halfway to the next lower score; nan if nothing right was found."""
        if not self.num_objects or not self.right.any():
            return math.nan
        distinct = np.unique(self.scores)
        best = int(np.argmax(self.at(distinct).f1))
        below = distinct[best - 1] if best else 0.0
        return float((distinct[best] + below) / 2)


def pooled(rankings: Iterable[Ranking]) -> Ranking:
    """The detections of all classes as one ranking, for what one threshold for all of them does."""
    every = list(rankings)
    scores = np.concatenate([np.zeros(0), *(one.scores for one in every)])
    right = np.concatenate([np.zeros(0, bool), *(one.right for one in every)])
    order = np.argsort(-scores, kind="stable")
    return Ranking(scores[order], right[order], sum(one.num_objects for one in every))


def rank_detections(
    ground_truth: Sequence[Record], detections: FoundByImage, classes: Classes
) -> dict[str, Ranking]:
    """Tell right detections from wrong ones, class by class, by COCO's matching from IoU 0.5 on.

    Raises:
        DetectionsError: if detections do not fit the labelled images; see ``gather``.
    """
    objects, found, num_images = gather(ground_truth, detections, len(classes))
    objects, found = objects.sorted(), found.best(len(found.scores))
    taken = _taken_objects(objects, found)
    counts = np.ones(len(taken), bool)
    counts[taken >= 0] = ~objects.crowd[taken[taken >= 0]]
    of_found, of_object = found.groups // num_images, objects.groups // num_images
    rankings = {}
    for k, name in enumerate(classes.names):
        own = np.flatnonzero((of_found == k) & counts)
        own = own[np.argsort(-found.scores[own], kind="stable")]
        num_objects = int(np.count_nonzero((of_object == k) & ~objects.crowd))
        rankings[name] = Ranking(found.scores[own], taken[own] >= 0, num_objects)
    return rankings


def confusion_matrix(
    ground_truth: Sequence[Record],
    detections: FoundByImage,
    classes: Classes,
    *,
    threshold: float | Sequence[float] = 0.5,
) -> Confusion:
    """Count which classes are taken for which.

    Objects are first matched with detections of their own class, as for the precision. What remains of both
    is then matched regardless of class: a confusion. The rest are missed objects and false alarms. Detections
    inside a crowd of their class are left out.

    A detection counts from ``threshold`` on, one number or one for each class; an object is found from IoU 0.5 on.

    Raises:
        ValueError: if detections do not fit the labelled images (see ``gather``), or there are neither one nor
            C thresholds.
    """
    thresholds = np.broadcast_to(np.asarray(threshold, np.float64), (len(classes),))
    objects, found, num_images = gather(ground_truth, detections, len(classes))
    kept = found.scores >= thresholds[found.groups // num_images]
    found = AllDetections(found.groups[kept], found.boxes_xywh[kept], found.scores[kept])
    objects, found = objects.sorted(), found.best(len(found.scores))
    taken = _taken_objects(objects, found)
    hit = taken[taken >= 0]
    right = hit[~objects.crowd[hit]]
    counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    np.add.at(counts, (objects.groups[right] // num_images,) * 2, 1)
    missed = ~objects.crowd
    missed[right] = False
    _count_confusions(counts, objects, np.flatnonzero(missed), found, np.flatnonzero(taken < 0), num_images)
    return Confusion(classes.names, counts)


def _count_confusions(
    counts: NDArray[np.int64],
    objects: Objects,
    missed: NDArray[np.int64],
    found: AllDetections,
    wrong: NDArray[np.int64],
    num_images: int,
) -> None:
    """Match missed objects with wrong detections of any class, and count these and what remains of both."""
    object_labels, object_images = np.divmod(objects.groups[missed], num_images)
    order = np.argsort(object_images, kind="stable")
    object_labels, missed = object_labels[order], missed[order]
    found_labels, found_images = np.divmod(found.groups[wrong], num_images)
    by_score = np.lexsort((-found.scores[wrong], found_images))
    found_labels, wrong = found_labels[by_score], wrong[by_score]
    # The groups are whole images here, whatever the class.
    taken = _taken_objects(
        Objects(
            object_images[order], objects.boxes_xywh[missed], objects.areas[missed], objects.crowd[missed]
        ),
        AllDetections(found_images[by_score], found.boxes_xywh[wrong], found.scores[wrong]),
    )
    hit = taken >= 0
    np.add.at(counts, (object_labels[taken[hit]], found_labels[hit]), 1)
    np.add.at(counts[-1], found_labels[~hit], 1)
    alone = np.ones(len(object_labels), bool)
    alone[taken[hit]] = False
    np.add.at(counts[:, -1], object_labels[alone], 1)


def _taken_objects(objects: Objects, found: AllDetections) -> NDArray[np.int64]:
    """(N,) the position of the object that each sorted detection takes, or -1."""
    pairs = overlapping_pairs(objects, found, FOUND_IOU)
    candidates, matched = match(pairs, objects, found, objects.crowd, np.array([FOUND_IOU]))
    taken = np.full(len(found.scores), -1, np.int64)
    taken[candidates] = matched[0]
    return taken
