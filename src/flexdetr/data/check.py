"""Checks a data set before anything is trained on it: every defect with its file and line."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.data.dataset import DataError, Dataset, Defect, Record
from flexdetr.data.images import ImageError, verify
from flexdetr.data.record_pixels import read_page
from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.pool import Pool
from flexdetr.tasks import DEFAULT, task

_log = logging.getLogger(__name__)

_THREADS = 4
_SHOWN = 10
_SMALL = 64  # pixels at which a page of a PDF file is drawn to see whether it can be


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    ``defects`` are errors first; the ``histogram`` has boxes by class name, then by split.
    """

    dataset: Dataset
    defects: tuple[Defect, ...]
    histogram: dict[str, dict[str, int]]

    @property
    def usable(self) -> bool:
        """Whether training would start: there are images to train and to validate on, and no defect is an error."""
        splits = self.dataset.splits
        return bool(splits.get("train")) and bool(splits.get("val")) and not self.num_errors

    @property
    def num_errors(self) -> int:
        """Defects that keep an image or a file from being used."""
        return sum(defect.severity == "error" for defect in self.defects)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "root": str(self.dataset.root),
            "format": self.dataset.format,
            "usable": self.usable,
            "classes": self.dataset.classes.to_json(),
            "splits": {
                name: {
                    "images": len(records),
                    "boxes": sum(map(len, records)),
                    "without_boxes": sum(not len(record) for record in records),
                }
                for name, records in self.dataset.splits.items()
            },
            "histogram": self.histogram,
            "notes": list(self.dataset.notes),
            "errors": self.num_errors,
            "warnings": len(self.defects) - self.num_errors,
            "defects": [defect.to_json() for defect in self.defects],
        }


def check(
    root: str | Path,
    *,
    val_fraction: float = 0.15,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    kind: str = DEFAULT,
    form: PixelForm = RGB,
) -> CheckReport:
    """Reads a data set as training would, decodes every image, and lists what is wrong.

    ``val_fraction`` and ``seed`` are as in ``detect.read``; ``form`` is what the pictures have to become.

    Raises:
        UnrecognisedDataError: if no data set is found.
        DataError: if it contradicts itself.
    """
    dataset = task(kind).read(root, val_fraction=val_fraction, seed=seed).with_form(form)
    records = [record for split in dataset.splits.values() for record in split]
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(records))

    odd: list[Defect] = []
    bad = broken_images(records, advance, odd)
    defects = [*dataset.defects, *bad.values(), *_summed(odd), *shared_images(dataset)]
    defects += [*dataset.lost_labels(), *crowd_warnings(dataset)]
    histogram: dict[str, dict[str, int]] = {name: {} for name in dataset.classes.names}
    for split, split_records in dataset.splits.items():
        counts = count_labels(split_records, len(dataset.classes))
        for name, counted in zip(dataset.classes.names, counts, strict=True):
            histogram[name][split] = counted.objects + counted.crowds
    for name, by_split in histogram.items():
        if "train" in by_split and not by_split["train"]:
            defects.append(
                Defect("warning", dataset.root, None, f"class {name!r} has no boxes in the training split")
            )
    defects.sort(key=lambda defect: (defect.severity != "error", str(defect.file), defect.line or 0))
    return CheckReport(dataset, tuple(defects), histogram)


class LabelCount(NamedTuple):
    """How often a class is labelled.

    Attributes:
        objects: ordinary ones, which are trained on.
        images: that show one of these.
        crowds: regions of many objects, which are not trained on.
    """

    objects: int
    images: int
    crowds: int


def count_labels(records: Iterable[Record], num_classes: int) -> list[LabelCount]:
    """How often each class is labelled, in the head's order."""
    table = np.zeros((3, num_classes), np.int64)
    for record in records:
        ordinary = np.bincount(record.labels[~record.iscrowd], minlength=num_classes)
        table += ordinary, ordinary > 0, np.bincount(record.labels[record.iscrowd], minlength=num_classes)
    return [LabelCount(*column) for column in table.T.tolist()]


def crowd_warnings(dataset: Dataset) -> list[Defect]:
    """A warning where most boxes, of the whole data set or else of one split, are crowd regions."""
    counts = {
        split: (sum(map(len, records)), sum(int(record.iscrowd.sum()) for record in records))
        for split, records in dataset.splits.items()
    }
    whole = sum(total for total, _ in counts.values()), sum(crowds for _, crowds in counts.values())
    suspects = (
        {"": whole} if 2 * whole[1] > whole[0] else {f" of the {name} split": counts[name] for name in counts}
    )
    return [
        Defect(
            "warning",
            dataset.root,
            None,
            f"{crowds} of {total} boxes{where} are crowd regions (iscrowd 1), which are neither trained on nor scored; "
            'CVAT exports masks so. To take them as objects, set "iscrowd" to 0 in the annotation file',
        )
        for where, (total, crowds) in suspects.items()
        if 2 * crowds > total
    ]


def shared_images(dataset: Dataset) -> list[Defect]:
    """A warning for each image that two splits hold: what is trained on says nothing in a test."""
    first: dict[str, tuple[str, Path]] = {}
    found: list[Defect] = []
    sizes: dict[int, set[str]] = {}  # splits that have a file of so many bytes: few files are read for this
    for split, records in dataset.splits.items():
        for record in records:
            sizes.setdefault(_bytes(record.path), set()).add(split)
    with Pool(_THREADS, "flexdetr-check") as pool:
        for split, records in dataset.splits.items():
            paths = [record.path for record in records if len(sizes[_bytes(record.path)]) > 1]
            for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
                other, twin = first.setdefault(digest, (split, path))
                if other != split:
                    message = f"is in the {split} split and, as {twin}, in the {other} split; keep it in one"
                    found.append(Defect("warning", path, None, message))
    return found


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # unreadable: listed as an error already


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)  # unreadable: listed as an error already


def usable_records(dataset: Dataset, split: str, *, skip_bad: bool) -> tuple[Record, ...]:
    """The records of a split, each image of which was decoded once.

    ``skip_bad`` leaves out what cannot be used, rather than refuse.

    Raises:
        DataError: if the data set has no such split, or no image in it; without ``skip_bad`` also where some
            annotation or image of it cannot be used, naming the files.
    """
    odd: list[Defect] = []
    bad = broken_images(dataset.splits.get(split, ()), odd=odd)
    for defect in _summed(odd):
        _log.warning("%s", defect)
    _refuse(dataset, split, list(bad.values()), skip_bad=skip_bad)
    usable = tuple(record for record in dataset.split(split) if record.path not in bad)
    if not usable:
        raise DataError(f"{dataset.root}: the {split} split has no images")
    return usable


def read_for_training(root: str | Path, config: Config) -> Dataset:
    """Read a data set, and refuse it if there are no images to train or to validate on.

    That shows before any image is decoded, and before torch is loaded.

    Raises:
        DataError: as ``detect.read`` and ``usable_records`` do.
    """
    dataset = read_as(config, root)
    for split in ("train", "val"):
        if not dataset.splits.get(split):
            usable_records(dataset, split, skip_bad=config.data.skip_bad)
    return dataset


def read_as(config: Config, root: str | Path, classes: Classes | None = None) -> Dataset:
    """The data set at a place as a run with a configuration has it: its validation split, its form of pixels.

    ``classes`` are those of a detector, which the data set then has to have; None leaves it its own.

    Raises:
        DataError: as ``detect.read`` does, and if the classes are others.
    """
    row = task(config.task)
    dataset = row.read(root, val_fraction=config.data.val_fraction, seed=config.seed)
    return (dataset if classes is None else dataset.with_classes(classes)).with_form(config.data.form)


def _refuse(dataset: Dataset, split: str, broken: list[Defect], *, skip_bad: bool) -> None:
    # Validation images may have been cut from the training images.
    mine = (split, "train") if split == "val" else (split,)
    errors = [defect for defect in dataset.errors if defect.split is None or defect.split in mine]
    errors += broken
    lost = [defect for defect in dataset.lost_labels() if defect.split in (None, *mine)]
    nothing = bool(lost) and not any(map(len, dataset.splits.get(split, ())))
    if (skip_bad and not nothing) or not (lost or errors):
        return
    if lost:  # what was dropped with a mere warning matters now
        dropped = (one for one in dataset.defects if one.severity == "warning" and one.split in (None, *mine))
        errors = [*lost, *errors, *dropped]
    shown = "\n".join(f"  {defect}" for defect in errors[:_SHOWN])
    more = f"\n  and {len(errors) - _SHOWN} more (flexdetr check lists all)" if len(errors) > _SHOWN else ""
    advice = "Fix them" if nothing else "Fix them, or go on without them: --set data.skip_bad=true"
    raise DataError(
        f"{dataset.root} has {len(errors)} files or boxes that cannot be used:\n{shown}{more}\n{advice}"
    )


def broken_images(
    records: Iterable[Record],
    progress: Callable[[int], None] | None = None,
    odd: list[Defect] | None = None,
) -> dict[Path, Defect]:
    """An error for each image that cannot be decoded to its end; warnings about ranges of values go to ``odd``."""
    bad: dict[Path, Defect] = {}
    everything = list(records)
    once = _once(everything)
    if progress is not None:
        progress(len(everything) - len(once))
    with Pool(_THREADS, "flexdetr-check") as pool:
        for defect in pool.map(_image_defect, once):
            if defect is not None and defect.severity == "error":
                bad[defect.file] = defect
            elif defect is not None and odd is not None:
                odd.append(defect)
            if progress is not None:
                progress(1)
    return bad


def _summed(odd: list[Defect]) -> list[Defect]:
    """The first of some warnings about images, with their number: a set from one camera has them all."""
    if len(odd) < 2:
        return odd
    return [replace(odd[0], message=f"{odd[0].message} ({len(odd)} images are like this)")]


def _once(records: Iterable[Record]) -> list[Record]:
    """A record of each picture: pages are there in four turns."""
    return [record for record in records if record.view is None or record.view.turn == 0]


def _image_defect(record: Record) -> Defect | None:
    path = record.path
    try:
        if record.view is not None:
            read_page(record, (_SMALL, _SMALL))
            return None
        odd = verify(path, record.form)
    except ImageError as error:
        return Defect("error", path, None, str(error).removeprefix(f"{path}: "))
    return None if odd is None else Defect("warning", path, None, odd)
