"""COCO's greedy matching of detections with objects, for a whole data set at once in numpy.

The rules are those of the COCO evaluation (pycocotools): in each image and class, detections from the highest
score down take the object of the largest IoU that is still free; an object that does not count (a crowd, or
one outside the range of areas) is taken only where none that counts is left, and a crowd can be taken any
number of times. A group is one class in one image. Groups do not touch each other, so the n-th detections of
all groups are matched in one step; only pairs above the lowest IoU threshold ever take part.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOUND_IOU = 0.5  # from which on an object counts as found, where there is one such limit
PAIRS_AT_ONCE = 500_000  # bounds the memory of the IoU computation to about 100 MB


@dataclass(frozen=True)
class Objects:
    """The labelled objects of a data set.

    Attributes:
        groups: (N,) int64, class index times the number of images plus image index.
        boxes_xywh: (N, 4) float64 pixels.
        areas: (N,) float64, of the object (a mask's where there is one), not of its box.
        crowd: (N,) bool, whether the box holds many objects.
    """

    groups: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def sorted(self) -> Objects:
        """The same objects ordered by group; within a group their order stays."""
        order = np.argsort(self.groups, kind="stable")
        return Objects(self.groups[order], self.boxes_xywh[order], self.areas[order], self.crowd[order])


@dataclass(frozen=True)
class AllDetections:
    """The detections of a data set.

    Attributes:
        groups: (N,) int64, as in ``Objects``.
        boxes_xywh: (N, 4) float64 pixels.
        scores: (N,) float64.
    """

    groups: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]

    def best(self, limit: int) -> AllDetections:
        """The ``limit`` best of each group, ordered by group, then by score; equal scores keep their order."""
        order = np.lexsort((-self.scores, self.groups))
        order = order[_places_in_group(self.groups[order]) < limit]
        return AllDetections(self.groups[order], self.boxes_xywh[order], self.scores[order])

    def ranks(self) -> NDArray[np.int64]:
        """(N,) int64, each one's place in its group, 0 for the highest score; of sorted detections only."""
        return _places_in_group(self.groups)


@dataclass(frozen=True)
class OverlappingPairs:
    """Detections and objects of one group whose IoU reaches the lowest threshold, ordered by detection.

    Attributes:
        found: (P,) int64 positions of the detections.
        objects: (P,) int64 positions of the objects.
        ious: (P,) float64; for a crowd, the share of the detection that lies in it.
    """

    found: NDArray[np.int64]
    objects: NDArray[np.int64]
    ious: NDArray[np.float64]


def overlapping_pairs(objects: Objects, found: AllDetections, lowest: float) -> OverlappingPairs:
    """All pairs of sorted objects and detections in the same group with an IoU of at least ``lowest``."""
    first = np.searchsorted(objects.groups, found.groups, "left")
    counts = np.searchsorted(objects.groups, found.groups, "right") - first
    ends = np.cumsum(counts)
    parts: list[OverlappingPairs] = []
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")), start + 1)
        repeats = counts[start:stop]
        of_found = np.repeat(np.arange(start, stop), repeats)
        within = np.arange(len(of_found)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        of_object = np.repeat(first[start:stop], repeats) + within
        ious = _paired_iou(
            found.boxes_xywh[of_found], objects.boxes_xywh[of_object], crowd=objects.crowd[of_object]
        )
        kept = ious >= lowest
        parts.append(OverlappingPairs(of_found[kept], of_object[kept], ious[kept]))
        start = stop
    if not parts:
        return OverlappingPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return OverlappingPairs(
        np.concatenate([part.found for part in parts]),
        np.concatenate([part.objects for part in parts]),
        np.concatenate([part.ious for part in parts]),
    )


def match(
    pairs: OverlappingPairs,
    objects: Objects,
    found: AllDetections,
    ignored: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Match greedily, for each IoU threshold on its own.

    Args:
        pairs: what ``overlapping_pairs`` found.
        objects: the sorted objects.
        found: the sorted detections.
        ignored: (objects,) bool, the objects that do not count in this range of areas (crowds never do).
        thresholds: (T,) IoU thresholds.

    Returns:
        candidates: (D,) int64, ascending positions of the detections that overlap an object at all.
        matched: (T, D) int64, the position of the object that each candidate took, or -1.
    """
    candidates, slots = np.unique(pairs.found, return_inverse=True)
    matched = np.full((len(thresholds), len(candidates)), -1, np.int64)
    if not len(candidates):
        return candidates, matched
    rounds = _places_in_group(found.groups[candidates])[slots]
    # A detection's preferred object comes last: one that counts, then the larger IoU, then the later one.
    order = np.lexsort((pairs.objects, pairs.ious, ~ignored[pairs.objects], slots, rounds))
    slots, of_object, ious = slots[order], pairs.objects[order], pairs.ious[order]
    borders = np.searchsorted(rounds[order], np.arange(rounds.max() + 2))
    taken = np.zeros((len(thresholds), len(objects.groups)), bool)
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]  # rounding must not cost a perfect box its match
    for start, stop in itertools.pairwise(borders):
        near = of_object[start:stop]
        free = (ious[start:stop] >= limits) & (~taken[:, near] | objects.crowd[near])
        segments = np.flatnonzero(np.diff(slots[start:stop], prepend=-1))
        chosen = np.maximum.reduceat(np.where(free, np.arange(len(near)), -1), segments, axis=1)
        at, slot = np.nonzero(chosen >= 0)
        winners = near[chosen[at, slot]]
        taken[at, winners] = True
        matched[at, slots[start:stop][segments[slot]]] = winners
    return candidates, matched


def _places_in_group(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2 ... within each run of equal values of a sorted array."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _paired_iou(
    boxes_xywh: NDArray[np.float64], others_xywh: NDArray[np.float64], *, crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU of boxes with their partners, in the operations and order that COCO uses (bits decide ties)."""
    x, y, width, height = boxes_xywh.T
    other_x, other_y, other_width, other_height = others_xywh.T
    across = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    down = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    shared = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = width * height
    union = np.where(crowd, area, area + other_width * other_height - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
