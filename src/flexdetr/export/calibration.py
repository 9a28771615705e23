"""The pictures that int8 ranges are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.data.record_pixels import read_record
from flexdetr.export.errors import ExportError
from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.process import prepare
from flexdetr.tasks import DEFAULT, task

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
    size: tuple[int, int],
    *,
    raw: bool,
    count: int,
    kind: str = DEFAULT,
    form: PixelForm = RGB,
) -> CalibrationPictures:
    """Pictures of the training split, spread evenly over it; of another if there is none.

    Args:
        data: folder of the data set.
        classes: of the detector.
        size: (height, width) that the network sees.
        raw: whether the graph takes pictures alone.
        count: how many, at most.
        kind: the task that the data is for.
        form: what the detector takes.

    Raises:
        DataError: if the data cannot be used.
        ExportError: if ``count`` is not positive.
    """
    if count < 1:
        raise ExportError(f"calibration needs at least one picture; got {count}")
    dataset = task(kind).read(data).with_classes(classes).with_form(form)
    split = next(name for name in ("train", "val", "test") if dataset.splits.get(name))
    records = dataset.split(split)
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return CalibrationPictures(
        tuple(records[place] for place in places),
        size,
        raw,
        f"{len(places)} pictures of {data}, split {split}",
    )
