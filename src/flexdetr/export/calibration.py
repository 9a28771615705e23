"""The pictures that int8 ranges are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.data.check import read_as
from flexdetr.data.dataset import Record
from flexdetr.data.record_pixels import read_record
from flexdetr.export.errors import ExportError
from flexdetr.runtime.process import prepare

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CalibrationPictures:
    """Pictures as a graph takes them, read anew each time they are iterated over.

    Attributes:
        records: the pictures.
        size: (height, width) that the network sees.
        raw: whether the graph takes pictures alone, without their sizes.
        source: where they come from, in words.
    """

    records: tuple[Record, ...]
    size: tuple[int, int]
    raw: bool
    source: str

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Feeds]:
        for record in self.records:
            image = read_record(record)
            feeds: Feeds = {
                "images": np.ascontiguousarray(prepare(image, self.size).transpose(1, 2, 0)[None])
            }
            if not self.raw:
                feeds["sizes"] = np.array([image.shape[:2]], np.int64)
            yield feeds


def calibration_of(
    data: str | Path,
    classes: Classes,
    config: Config,
    *,
    raw: bool,
    count: int,
) -> CalibrationPictures:
    """Pictures of the training split, spread evenly over it; of another if there is none.

    Raises:
        DataError: if the data cannot be used.
        ExportError: if ``count`` is not positive.
    """
    if count < 1:
        raise ExportError(f"calibration needs at least one picture; got {count}")
    dataset = read_as(config, data, classes)
    split = next(name for name in ("train", "val", "test") if dataset.splits.get(name))
    records = dataset.split(split)
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return CalibrationPictures(
        tuple(records[place] for place in places),
        config.image_size,
        raw,
        f"{len(places)} pictures of {data}, split {split}",
    )
