"""What reading a data set gives: records of images with their boxes, and the defects found. No torch here."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import ClassError, Classes
from flexdetr.pixel_form import RGB, PixelForm

Format = Literal["coco", "voc", "yolo", "folders", "pages"]
Severity = Literal["error", "warning"]
SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """A data set that cannot be used; the message says which file, what is wrong with it and what to do."""


class UnrecognisedDataError(DataError):
    """No data set is where one was looked for; the message says what was looked for."""


@dataclass(frozen=True)
class Defect:
    """Something wrong in a data set.

    Attributes:
        severity: "error" where the image or file cannot be used, "warning" where reading has mended it.
        file: the file to look into.
        line: the line in it (from 1), where the format has lines.
        message: what is wrong and, for warnings, what was done about it.
        split: the split that it concerns; None if it may be any.
    """

    severity: Severity
    file: Path
    line: int | None
    message: str
    split: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else str(self.file)
        return f"{place}: {self.severity}: {self.message}"

    def to_json(self) -> dict[str, str | int | None]:
        """The same as plain values."""
        return {
            "severity": self.severity,
            "file": str(self.file),
            "line": self.line,
            "message": self.message,
            "split": self.split,
        }


def in_split(defects: Iterable[Defect], split: str) -> list[Defect]:
    """The defects as those of a split."""
    return [replace(defect, split=split) for defect in defects]


@dataclass(frozen=True)
class PageView:
    """How a page of a document is looked at: as it is stored (EXIF is not applied), and turned.

    Attributes:
        turn: quarter turns clockwise.
        number: of the page in its file, from 0.
    """

    turn: int
    number: int = 0


@dataclass(frozen=True, eq=False)
class Record:
    """One image with its objects.

    Attributes:
        path: the image file.
        image_id: unique in its split; COCO's own id, otherwise the file's name without suffix.
        width: pixels, after the EXIF orientation was applied.
        height: pixels, after the EXIF orientation was applied.
        boxes_xyxy: (N, 4) float32 pixels of the oriented image, starting at 0, clipped to the image.
        labels: (N,) int64 indices of the head's classes (not data-set ids).
        iscrowd: (N,) bool, COCO's crowd regions: ignored in evaluation, no training targets.
        areas: (N,) float32 square pixels from the annotation, or width times height of the box.
        window: xyxy pixels of the oriented image, where the record is a part of it; width, height and boxes are then
            those of the part.
        view: of a page of a document; None for a picture. ``flexdetr.data.record_pixels`` reads both.
        form: what its pixels become.
        middle: whether a model is shown the square in the middle alone (``flexdetr.runtime.middle``), as of pages.
    """

    path: Path
    image_id: int | str
    width: int
    height: int
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    window: tuple[int, int, int, int] | None = None
    view: PageView | None = None
    form: PixelForm = RGB
    middle: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as it was read.

    Attributes:
        root: the folder (or the single annotation file).
        format: "coco", "voc" or "yolo"; "folders" of pictures of a class each; "pages" of documents.
        classes: names and ids, in the head's order.
        splits: readable records by split; keys among "train", "val", "test".
        defects: all that was found wrong.
        notes: what a person should know about how it was read.
        written: labels that the annotation files hold for each split, used or not, before validation images were cut
            from the training images.
        strays: labels in label files that belong to no image.
    """

    root: Path
    format: Format
    classes: Classes
    splits: Mapping[str, tuple[Record, ...]]
    defects: tuple[Defect, ...] = ()
    notes: tuple[str, ...] = ()
    written: Mapping[str, int] = field(default_factory=dict)
    strays: int = 0

    @property
    def errors(self) -> tuple[Defect, ...]:
        """The defects that keep a file from being used."""
        return tuple(defect for defect in self.defects if defect.severity == "error")

    def lost_labels(self) -> list[Defect]:
        """An error for each split that keeps fewer than half of the labels that were written for it."""
        found = []
        everything = sum(len(record) for records in self.splits.values() for record in records)
        if everything < self.strays:
            message = (
                f"{self.strays} labels are in label files that belong to no image, and {everything or 'none'} in the "
                "others; put images and label files where they find each other, or take the label files away"
            )
            found.append(Defect("error", self.root, None, message))
        for split, written in self.written.items():
            parts = (split,) if split != "train" or "val" in self.written else ("train", "val")
            kept = sum(len(record) for part in parts for record in self.splits.get(part, ()))
            if 2 * kept < written:
                message = (
                    f"of {written} labels of the {split} split {kept or 'none'} can be used; fix the defects of the "
                    "others, or train on other data"
                )
                found.append(Defect("error", self.root, None, message, split))
        return found

    def split(self, name: str) -> tuple[Record, ...]:
        """The records of one split.

        Raises:
            DataError: if the data set has no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            if name == "val" and len(self.splits.get("train", ())) == 1:
                raise DataError(
                    f"{self.root} has no validation split, and a single training image cannot be divided; add a second "
                    "image, or a validation split (it may hold the same image, to try things out)"
                )
            raise DataError(f"{self.root} has no split {name!r}; it has: {known}")
        return self.splits[name]

    def with_form(self, form: PixelForm) -> Dataset:
        """The same data, whose pictures are read in another form.

        Raises:
            DataError: if they are pages of documents, which are RGB.
        """
        if form == RGB:
            return self
        if self.format == "pages":
            raise DataError(
                f"{self.root} holds pages, which are read as RGB: leave out data.channels and data.value_range"
            )
        splits = {
            split: tuple(replace(record, form=form) for record in records)
            for split, records in self.splits.items()
        }
        return replace(self, splits=splits)

    def with_classes(self, classes: Classes) -> Dataset:
        """The same data with labels as indices into ``classes``, matched by name.

        A detector keeps its own class order and ids; this is how a data set is read for it.

        Args:
            classes: those of the detector; may hold more than the data set uses.

        Raises:
            DataError: if a class with boxes is none of ``classes``.
        """
        if classes == self.classes:
            return self
        used = {
            int(label) for records in self.splits.values() for record in records for label in record.labels
        }
        table = np.full(max(len(self.classes), 1), -1, dtype=np.int64)
        for index, name in enumerate(self.classes.names):
            try:
                table[index] = classes.index_of_name(name)
            except ClassError as error:
                if index in used:
                    raise DataError(
                        f"{self.root} labels objects {name!r}, which the detector was not made for ({error}); "
                        "use another checkpoint, or train with these classes"
                    ) from None
        splits = {
            split: tuple(replace(record, labels=table[record.labels]) for record in records)
            for split, records in self.splits.items()
        }
        return replace(self, classes=classes, splits=splits)


def fingerprint(records: Sequence[Record]) -> int:
    """A number that changes with the images' names, order, boxes and labels."""
    number = 0
    for record in records:
        for part in (str(record.image_id).encode(), record.boxes_xyxy.tobytes(), record.labels.tobytes()):
            number = zlib.crc32(part, number)
    return number


def cut_validation(
    splits: Mapping[str, tuple[Record, ...]], fraction: float, seed: int
) -> tuple[dict[str, tuple[Record, ...]], list[str]]:
    """``splits`` with a validation split; where it is missing, some training images become it.

    Returns:
        the splits in the order train, val, test, and notes that say what was done.
    """
    found: dict[str, tuple[Record, ...]] = {name: splits[name] for name in SPLITS if splits.get(name)}
    train = found.get("train", ())
    if "val" in found or not train:
        return found, []
    if len(train) < 2:
        return found, ["there is no validation split, and a single training image cannot be divided"]
    count = min(max(1, round(fraction * len(train))), len(train) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(train))[:count].tolist())
    found["val"] = tuple(record for index, record in enumerate(train) if index in chosen)
    found["train"] = tuple(record for index, record in enumerate(train) if index not in chosen)
    note = f"no validation split: {count} of {len(train)} training images were taken for it (seed {seed})"
    return {name: found[name] for name in SPLITS if name in found}, [note]


def to_coco(records: tuple[Record, ...], classes: Classes) -> dict[str, Any]:
    """The records as a COCO document with the data set's own category ids; boxes are xywh pixels."""
    annotations: list[dict[str, Any]] = []
    for record in records:
        for box, label, crowd, area in zip(
            record.boxes_xyxy.tolist(), record.labels, record.iscrowd, record.areas, strict=True
        ):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": classes.ids[int(label)],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    images = [
        {"id": record.image_id, "file_name": record.path.name, "width": record.width, "height": record.height}
        for record in records
    ]
    return {"images": images, "annotations": annotations, "categories": classes.to_json()}
