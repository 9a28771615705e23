"""The 12 COCO numbers and each class's own, equal to pycocotools'.

Written in numpy rather than on an existing evaluator because those take every detection as a Python
dictionary: for 5,000 images of 300 detections that alone costs more time and memory than everything done here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flexdetr.metrics.flat_arrays import FoundByImage, gather
from flexdetr.metrics.matching import AllDetections, Objects, match, overlapping_pairs
from flexdetr.runtime.computation import Computation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flexdetr.classes import Classes
    from flexdetr.data.dataset import Record

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large


@dataclass(frozen=True)
class ClassMetrics:
    """One class's scores, in [0, 1]; nan if the class has no objects (of that size).

    Attributes:
        ap: average precision over IoU 0.50:0.95 and 101 recalls, 100 detections per image.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ar100: recall over IoU 0.50:0.95 with 100 detections per image.
        ap_small: of objects up to 32 x 32 pixels.
        ap_medium: of objects from 32 x 32 to 96 x 96 pixels.
        ap_large: of larger objects.
        num_objects: objects that count (crowds do not).
    """

    ap: float
    ap50: float
    ap75: float
    ar100: float
    ap_small: float
    ap_medium: float
    ap_large: float
    num_objects: int

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, None for nan (which JSON does not have)."""
        return {name: _json_number(value) for name, value in asdict(self).items()}


_NO_NUMBERS = ("per_class", "computation")


@dataclass(frozen=True)
class Metrics:
    """The 12 COCO numbers, in [0, 1]; nan if no object counts.

    Attributes:
        ap: mean over classes of the average precision over IoU 0.50:0.95.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ap_small: of objects up to 32 x 32 pixels (of the original image).
        ap_medium: of objects from 32 x 32 to 96 x 96 pixels.
        ap_large: of larger objects.
        ar1: recall over IoU 0.50:0.95 with one detection for each image and class.
        ar10: with ten.
        ar100: with a hundred.
        ar_small: of small objects, with a hundred.
        ar_medium: of medium objects.
        ar_large: of large objects.
        per_class: each class's own scores, by name.
        computation: what computed the detections, where that is known.
    """

    measures: ClassVar[tuple[str, str]] = ("AP", "AP50")

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, ClassMetrics]
    computation: Computation | None = None

    @property
    def pair(self) -> tuple[float, float]:
        """AP and AP50."""
        return self.ap, self.ap50

    @property
    def learned(self) -> float:
        """AP50."""
        return self.ap50

    def row(self) -> dict[str, float]:
        """Columns of ``metrics.csv``."""
        return {"ap": self.ap, "ap50": self.ap50, "ap75": self.ap75}

    def tables(self) -> list[tuple[list[str], list[Sequence[object]]]]:
        """The 12 numbers, and each class's own."""
        rows: list[Sequence[object]] = [
            (name, one.ap, one.ap50, one.ap75, one.ar100, one.num_objects)
            for name, one in self.per_class.items()
        ]
        return [
            (["metric", "value"], [*self.numbers().items()]),
            (["class", "AP", "AP50", "AP75", "AR100", "objects"], rows),
        ]

    def numbers(self) -> dict[str, float]:
        """The 12 numbers by name, in COCO's order."""
        return {name: value for name, value in vars(self).items() if name not in _NO_NUMBERS}

    def to_json(self) -> dict[str, Any]:
        """The 12 numbers, ``per_class`` and ``computation`` by name; None for nan (which JSON does not have)."""
        numbers = {name: _json_number(value) for name, value in self.numbers().items()}
        how = {} if self.computation is None else {"computation": self.computation.to_json()}
        return {**numbers, "per_class": {name: one.to_json() for name, one in self.per_class.items()}, **how}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metrics:
        """The inverse of ``to_json``; other keys are left out."""
        per_class = {name: ClassMetrics(**_defined(row)) for name, row in content["per_class"].items()}
        names = [one.name for one in fields(cls) if one.name not in _NO_NUMBERS]
        return cls(**_defined({name: content[name] for name in names}), per_class=per_class)


def evaluate(ground_truth: Sequence[Record], detections: FoundByImage, classes: Classes) -> Metrics:
    """Score detections against labelled images.

    Equal scores are ranked as pycocotools does: by image id where all ids are integers (otherwise in the
    order of ``ground_truth``), then in the order given.

    Args:
        ground_truth: the labelled images, with or without objects.
        detections: by image id, boxes_xyxy (N, 4) in pixels of the original image, scores (N,) and head
            indices (N,) of the classes. Images without an entry count as images in which nothing was found.
        classes: the names that head indices stand for.

    Raises:
        DetectionsError: if detections name per image that is not in ``ground_truth`` or a class that is not among
            ``classes``, hold a NaN, or their arrays do not fit together; or if an image id occurs twice.
    """
    objects, found, num_images = gather(ground_truth, detections, len(classes))
    return score(objects, found, num_images, list(classes.names))


def score(objects: Objects, found: AllDetections, num_images: int, names: list[str]) -> Metrics:
    """Match, and accumulate over classes and ranges of areas; -1 marks where no object counts, as in COCO."""
    objects, found = objects.sorted(), found.best(MAX_DETECTIONS[-1])
    pairs = overlapping_pairs(objects, found, float(IOU_THRESHOLDS[0]))
    borders = np.arange(len(names) + 1) * num_images
    object_borders, found_borders = (np.searchsorted(one.groups, borders) for one in (objects, found))
    # Precision asks for each class's detections by score, over all images; equal scores stay in their order.
    by_score = np.lexsort((-found.scores, found.groups // num_images))
    places = np.empty(len(by_score), np.int64)
    places[by_score] = np.arange(len(by_score))
    areas = found.boxes_xywh[:, 2] * found.boxes_xywh[:, 3]
    shape = (len(names), len(AREA_RANGES), len(IOU_THRESHOLDS))
    precision = np.full((*shape, len(RECALL_THRESHOLDS)), -1.0)
    recall = np.full((*shape, len(MAX_DETECTIONS)), -1.0)
    for a, (low, high) in enumerate(AREA_RANGES):
        ignored = objects.crowd | (objects.areas < low) | (objects.areas > high)
        in_range = (areas >= low) & (areas <= high)
        candidates, matched = match(pairs, objects, found, ignored, IOU_THRESHOLDS)
        order = np.argsort(places[candidates])
        candidates, matched = candidates[order], matched[:, order]
        hit = matched >= 0
        true = hit & ~ignored[matched] if len(ignored) else hit
        # What took no object is wrong if its size is in range, and does not count otherwise.
        inside = np.concatenate([[0], np.cumsum(in_range[by_score])])
        ranks = found.ranks()[candidates]
        near_borders = np.searchsorted(places[candidates], found_borders)
        for k in range(len(names)):
            count = int(np.count_nonzero(~ignored[object_borders[k] : object_borders[k + 1]]))
            if not count:
                continue
            near = slice(near_borders[k], near_borders[k + 1])
            above = inside[places[candidates[near]] + 1] - inside[found_borders[k]]
            false = above - np.cumsum(hit[:, near] & in_range[candidates[near]], axis=1)
            for t in range(len(IOU_THRESHOLDS)):
                kept = true[t, near]
                precision[k, a, t] = _precision_at_recalls(false[t, kept], count)
                recall[k, a, t] = [
                    np.count_nonzero(ranks[near][kept] < limit) / count for limit in MAX_DETECTIONS
                ]
    counts = [int(np.count_nonzero(~objects.crowd[a:b])) for a, b in itertools.pairwise(object_borders)]
    return _summary(precision, recall, dict(zip(names, counts, strict=True)))


def _precision_at_recalls(false: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The best precision at each recall threshold or beyond it, 0 if that recall is not reached.

    Args:
        false: (N,) for each right detection, best score first, how many wrong ones rank above it. The others
            need no entry: neither recall nor the best precision to come changes between two right detections.
        count: objects to find.
    """
    true = np.arange(1, len(false) + 1)
    precision = true / (false + true + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true / count, RECALL_THRESHOLDS, side="left")
    return np.concatenate([best, [0.0]])[np.minimum(reached, len(best))]


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64], counts: dict[str, int]) -> Metrics:
    """The means that COCO prints.

    Args:
        precision: (K, A, T, R) by class, area range, IoU threshold and recall threshold.
        recall: (K, A, T, M) by class, area range, IoU threshold and limit of detections.
        counts: the objects of each of the K classes, by name.
    """
    return Metrics(
        ap=_mean(precision[:, 0]),
        ap50=_mean(precision[:, 0, 0]),
        ap75=_mean(precision[:, 0, 5]),
        ap_small=_mean(precision[:, 1]),
        ap_medium=_mean(precision[:, 2]),
        ap_large=_mean(precision[:, 3]),
        ar1=_mean(recall[:, 0, :, 0]),
        ar10=_mean(recall[:, 0, :, 1]),
        ar100=_mean(recall[:, 0, :, 2]),
        ar_small=_mean(recall[:, 1, :, 2]),
        ar_medium=_mean(recall[:, 2, :, 2]),
        ar_large=_mean(recall[:, 3, :, 2]),
        per_class={
            name: ClassMetrics(
                ap=_mean(precision[k, 0]),
                ap50=_mean(precision[k, 0, 0]),
                ap75=_mean(precision[k, 0, 5]),
                ar100=_mean(recall[k, 0, :, 2]),
                ap_small=_mean(precision[k, 1]),
                ap_medium=_mean(precision[k, 2]),
                ap_large=_mean(precision[k, 3]),
                num_objects=count,
            )
            for k, (name, count) in enumerate(counts.items())
        },
    )


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the values that are defined, nan if none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _defined(values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``_json_number`` wrote, with nan again."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value
