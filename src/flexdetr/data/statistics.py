"""What a data set holds, in numbers, and images that look alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.data.check import count_labels
from flexdetr.data.dataset import Dataset, Record
from flexdetr.data.images import ImageError
from flexdetr.data.views import read_view
from flexdetr.runtime.pool import Pool

# COCO's bounds of small and large objects, in pixels of a side.
SMALL, LARGE = 32, 96
# Bits of 64 in which the hashes of two versions of a picture may differ (other size, other compression).
ALIKE = 4
_THREADS = 4
_BLOCK = 1024  # hashes that are compared with all others at a time


class ClassFacts(NamedTuple):
    """A class in numbers.

    Attributes:
        name: of the class.
        id: the data set's own.
        objects: by split, without crowd regions.
        images: that show it, by split.
        crowds: crowd regions in all splits.
        side: median side of an object (the root of its box's area), as a share of its image's.
    """

    name: str
    id: int
    objects: dict[str, int]
    images: dict[str, int]
    crowds: int
    side: float


class Twins(NamedTuple):
    """Two images that look the same.

    First and second are split and file; ``bits`` are those of the 64 in which their hashes differ.
    """

    first: tuple[str, Path]
    second: tuple[str, Path]
    bits: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """A data set in numbers.

    Attributes:
        dataset: which.
        classes: in the head's order.
        sides: (N,) of all objects but crowds: the root of the box's area, in pixels.
        ratios: (N,) their width divided by their height.
        counts: (M,) objects of each image.
        sizes: (M, 2) width and height of each image in pixels.
        together: (C, C) images that show both classes; on the diagonal, the class.
        twins: pairs of images that look the same, those in different splits first.
        unread: images that could not be compared, with the reason.
    """

    dataset: Dataset
    classes: tuple[ClassFacts, ...]
    sides: NDArray[np.float64]
    ratios: NDArray[np.float64]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    together: NDArray[np.int64]
    twins: tuple[Twins, ...]
    unread: tuple[str, ...]

    @property
    def leaks(self) -> tuple[Twins, ...]:
        """The twins in different splits: what is trained on says nothing in a test."""
        return tuple(pair for pair in self.twins if pair.first[0] != pair.second[0])

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain values."""
        splits = self.dataset.splits
        size_shares = [int(count) for count in np.histogram(self.sides, [0, SMALL, LARGE, np.inf])[0]]
        return {
            "root": str(self.dataset.root),
            "format": self.dataset.format,
            "splits": {
                name: {
                    "images": len(records),
                    "objects": sum(int((~one.iscrowd).sum()) for one in records),
                    "without_objects": sum(not len(one) for one in records),
                }
                for name, records in splits.items()
            },
            "classes": [facts._asdict() for facts in self.classes],
            "objects_by_size": dict(zip(("small", "medium", "large"), size_shares, strict=True)),
            "together": self.together.tolist(),
            "twins": [
                {
                    "first": [one.first[0], str(one.first[1])],
                    "second": [one.second[0], str(one.second[1])],
                    "bits": one.bits,
                }
                for one in self.twins
            ],
            "unread": list(self.unread),
        }


def statistics(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Statistics:
    """Count a data set, and compare its images with each other."""
    every = [(split, record) for split, records in dataset.splits.items() for record in records]
    records = [record for _, record in every]
    kept = [record.boxes_xyxy[~record.iscrowd].astype(np.float64) for record in records]
    boxes = np.concatenate([np.zeros((0, 4)), *kept])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    images = np.array([(record.width, record.height) for record in records], np.int64).reshape(-1, 2)
    shares = np.sqrt(width * height) / np.repeat(np.sqrt(images.prod(axis=1)), [len(own) for own in kept])
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels[~one.iscrowd] for one in records)])
    hashes, unread = _hashes(records, progress)
    places = [(split, record.path) for split, record in every]
    return Statistics(
        dataset,
        _class_facts(dataset, labels, shares),
        np.sqrt(width * height),
        width / height,
        np.array([len(own) for own in kept], np.int64),
        images,
        _together(records, len(dataset.classes)),
        _twins(places, hashes),
        unread,
    )


def picture_hash(image: NDArray[np.uint8]) -> int:
    """64 bits that hardly change with an image's size, compression and brightness.

    Each bit tells whether one of 8x8 places is brighter than the one on its left. A flat image is 0.
    """
    small = Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _hashes(
    records: Sequence[Record], progress: Callable[[int, int], None] | None
) -> tuple[list[int | None], tuple[str, ...]]:
    hashes: list[int | None] = []
    unread = []
    with Pool(_THREADS, "flexdetr-statistics") as pool:
        for found in pool.map(_hash, [record.path for record in records]):
            hashes.append(None if isinstance(found, str) else found)
            if isinstance(found, str):
                unread.append(found)
            if progress is not None:
                progress(len(hashes), len(records))
    return hashes, tuple(unread)


def _hash(path: Path) -> int | str:
    try:
        return picture_hash(read_view(path, (64, 72))[0])
    except ImageError as error:
        return str(error)


def _twins(places: Sequence[tuple[str, Path]], hashes: Sequence[int | None]) -> tuple[Twins, ...]:
    # A flat picture's hash says nothing: all of them would be twins.
    known = [index for index, value in enumerate(hashes) if value]
    values = np.array([hashes[index] for index in known], np.uint64)
    found = []
    for start in range(0, len(known), _BLOCK):
        bits = np.bitwise_count(values[start : start + _BLOCK, None] ^ values[None, :])
        for row, column in np.argwhere(bits <= ALIKE).tolist():
            if column > start + row:
                first, second = places[known[start + row]], places[known[column]]
                found.append(Twins(first, second, int(bits[row, column])))
    return tuple(sorted(found, key=lambda pair: (pair.first[0] == pair.second[0], pair.bits)))


def _class_facts(
    dataset: Dataset, labels: NDArray[np.int64], shares: NDArray[np.float64]
) -> tuple[ClassFacts, ...]:
    counted: Mapping[str, list[Any]] = {
        split: count_labels(records, len(dataset.classes)) for split, records in dataset.splits.items()
    }
    facts = []
    for index, (name, number) in enumerate(zip(dataset.classes.names, dataset.classes.ids, strict=True)):
        own = shares[labels == index]
        facts.append(
            ClassFacts(
                name,
                number,
                {split: counts[index].objects for split, counts in counted.items()},
                {split: counts[index].images for split, counts in counted.items()},
                sum(counts[index].crowds for counts in counted.values()),
                float(np.median(own)) if len(own) else float("nan"),
            )
        )
    return tuple(facts)


def _together(records: Sequence[Record], num_classes: int) -> NDArray[np.int64]:
    shown = np.zeros((len(records), num_classes), np.int64)
    for row, record in zip(shown, records, strict=True):
        row[np.unique(record.labels[~record.iscrowd])] = 1
    return shown.T @ shown
