"""Pictures in a folder for each class, in splits or to be divided. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flexdetr.classes import Classes
from flexdetr.config_values import some_of
from flexdetr.data import detect
from flexdetr.data.dataset import (
    DataError,
    Dataset,
    Defect,
    Record,
    UnrecognisedDataError,
    cut_validation,
    in_split,
)
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.split_words import SPLIT_FOLDERS, split_named
from flexdetr.runtime.folders import IMAGE_SUFFIXES, is_hidden

_SHOWN = 5


def read(root: str | Path, *, val_fraction: float | None = 0.15, seed: int = 0) -> Dataset:
    """Reads ``ROOT/{train,val,test}/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg``, which is then divided.

    Classes are the folders' names in alphabetical order (numbers by their size), with ids 0, 1, 2 ... Pictures may lie
    in folders below a class's. Each record has one box, which is the whole picture; a model is shown its middle.

    ``val_fraction`` and ``seed`` are as in ``detect.read``.

    Returns:
        the data set; files that cannot be read are among its ``defects``, not in its splits.

    Raises:
        UnrecognisedDataError: if there are no folders of classes, with what to do where it is a detection data set.
        DataError: if a class has no pictures, or there is one class only.
    """
    root = Path(root)
    if not root.is_dir():
        raise UnrecognisedDataError(
            f"{root} is not a folder; a classifier learns from one folder of pictures for each class"
        )
    if (found := detect.format_of(root)) is not None:
        raise UnrecognisedDataError(
            f"{root} is a detection data set ({found}); train a detector on it, flexdetr train {root} --model "
            f"flexdetr_nano, or a classifier on its objects: flexdetr train --crops-of {root} --model hgnetv2_b0_cls"
        )
    splits = _splits(root)
    names = sorted({folder.name for folders in splits.values() for folder in folders}, key=_order)
    _check_classes(root, splits, names)
    classes = Classes(tuple(names), tuple(range(len(names))))
    defects: list[Defect] = []
    records: dict[str, tuple[Record, ...]] = {}
    for split, folders in splits.items():
        wrong: list[Defect] = []
        records[split] = tuple(
            record
            for folder in folders
            for path in pictures_in(folder)
            if (record := _record(path, root, names.index(folder.name), wrong)) is not None
        )
        defects += in_split(wrong, split)
    divided, notes = (records, []) if val_fraction is None else cut_validation(records, val_fraction, seed)
    written = {split: len(found) for split, found in records.items()}
    return Dataset(root, "folders", classes, divided, tuple(defects), tuple(notes), written)


def class_folders(root: Path) -> list[Path]:
    """Folders of pictures in a folder, or of its splits; empty if it is no data set of a classifier."""
    try:
        return [
            folder for folders in _splits(root).values() for folder in folders if any(pictures_in(folder))
        ]
    except (UnrecognisedDataError, OSError):
        return []


def pictures_in(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and those below it, in alphabetical order, by their suffix."""
    for path in sorted(folder.rglob("*")):
        hidden = any(is_hidden(part) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield path


def _splits(root: Path) -> dict[str, list[Path]]:
    """The classes' folders of each split; all of them are training folders if nothing is named like a split."""
    inside = _folders(root)
    named = [folder for folder in inside if folder.name.lower() in SPLIT_FOLDERS and _folders(folder)]
    if not inside:
        raise UnrecognisedDataError(
            f"{root} holds no folders; a classifier learns from one folder of pictures for each class, named like it: "
            f"{root / 'cat'}, {root / 'dog'} ..."
        )
    if not named:
        return {"train": inside}
    splits: dict[str, list[Path]] = {}
    for folder in named:
        splits.setdefault(str(split_named([folder.name])), []).extend(_folders(folder))
    return splits


def _folders(root: Path) -> list[Path]:
    found = (folder for folder in root.iterdir() if folder.is_dir() and not is_hidden(folder.name))
    return sorted(found, key=lambda folder: _order(folder.name))


def _check_classes(root: Path, splits: dict[str, list[Path]], names: list[str]) -> None:
    training = splits.get("train", [])
    empty = [folder for folder in training if not any(pictures_in(folder))]
    # Without any training folder there may be a test split, to be scored on.
    judged = training or [folder for folders in splits.values() for folder in folders]
    if not any(any(pictures_in(folder)) for folder in judged):
        raise UnrecognisedDataError(
            f"{root} holds no {'training ' if training else ''}pictures; put those of each class into a folder named "
            "like it"
        )
    if empty:
        raise DataError(
            f"{len(empty)} class folders hold no pictures: {some_of(empty, _SHOWN)}; put some into them, or take the "
            "folders away"
        )
    if len(names) < 2:
        raise DataError(
            f"{root} has one class only, {names[0]}, and a classifier tells classes apart: put pictures of what else "
            "may come into a second folder"
        )


def _record(path: Path, root: Path, label: int, defects: list[Defect]) -> Record | None:
    whole = RawBox((0.0, 0.0, 1.0, 1.0), label)
    image_id = path.relative_to(root).as_posix()
    record = assemble(RawImage(path, image_id, path, fractions=True, boxes=[whole]), defects)
    return None if record is None else replace(record, middle=True)


def _order(name: str) -> list[tuple[bool, int, str]]:
    """``2`` before ``10``, and letters whatever their case."""
    parts = re.split(r"(\d+)", name.lower())
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
