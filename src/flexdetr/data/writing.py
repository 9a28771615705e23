"""Data sets written in COCO, Pascal VOC or YOLO form, images included, as the readers beside this module read them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.config import nearest
from flexdetr.data.dataset import DataError, Dataset, Format, Record, to_coco

Progress = Callable[[int, int], None]
_ENDS_NAMES = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what ends a line of labels.txt


@dataclass(frozen=True)
class Written:
    """A data set that was written.

    Attributes:
        root: its folder.
        images: how many.
        boxes: how many, crowd regions included.
        notes: what the form could not hold, a sentence each.
    """

    root: Path
    images: int
    boxes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Image:
    """An image with the name that it gets."""

    record: Record
    name: str

    @property
    def stem(self) -> str:
        return Path(self.name).stem


_Splits = Mapping[str, Sequence[_Image]]


def write(
    dataset: Dataset,
    out: str | Path,
    to: str,
    *,
    link: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write a data set into a new folder, which is there whole or not at all.

    COCO holds everything. YOLO holds no crowd regions, which are left out, and no areas. Pascal VOC holds no class ids
    and no areas; crowd regions become objects marked difficult, which VOC's evaluation passes over too.
    The notes say what was lost. Images of one name get different ones.

    Args:
        dataset: records and classes.
        out: the folder, which does not exist or is empty.
        to: "coco", "voc" or "yolo".
        link: hard links to the images instead of copies; both must be on one disk.
        progress: told how many images of how many are written.

    Raises:
        DataError: if the folder is not empty, the form is unknown, there are no images, or a class name cannot be
            written in it.
        OSError: if a file cannot be read or written.
    """
    out = Path(out)
    if to not in _FORMS:
        raise DataError(nearest(to, get_args(Format), "format"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; give a new folder")
    if not any(dataset.splits.values()):
        raise DataError(f"{dataset.root} has no images that can be read")
    splits = _named(dataset.splits)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        folders, notes = _FORMS[to](part, splits, dataset.classes)
        _place_images(part, splits, folders, link, progress)
        part.chmod(0o755)  # mkdtemp's folders are for their maker alone
        if out.exists():
            out.rmdir()
        part.replace(out)
    except BaseException:
        shutil.rmtree(part)
        raise
    every = [image.record for images in splits.values() for image in images]
    return Written(out, len(every), sum(map(len, every)), tuple(notes))


def renumbered(dataset: Dataset) -> Dataset:
    """The same data with the class ids 0, 1, 2 ..., which other trainers of YOLO labels insist on."""
    return replace(dataset, classes=Classes.of(dataset.classes.names))


def _named(splits: Mapping[str, Sequence[Record]]) -> _Splits:
    """The images with names whose stems differ over all splits, also where cases do not count."""
    taken: set[str] = set()

    def free(path: Path) -> str:
        stem, number = path.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.lower())
        return stem + path.suffix

    return {
        split: [_Image(record, free(record.path)) for record in records]
        for split, records in splits.items()
        if records
    }


def _place_images(
    root: Path, splits: _Splits, folders: Mapping[str, str], link: bool, progress: Progress | None
) -> None:
    total, done = sum(map(len, splits.values())), 0
    for split, images in splits.items():
        folder = root / folders[split]
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            source = image.record.path.resolve()
            if link:
                os.link(source, folder / image.name)
            else:
                shutil.copyfile(source, folder / image.name)
            done += 1
            if progress is not None:
                progress(done, total)


def _write_coco(root: Path, splits: _Splits, classes: Classes) -> tuple[dict[str, str], list[str]]:
    """``annotations/instances_SPLIT.json`` and ``SPLIT/*``; image ids are kept where they are numbers."""
    (root / "annotations").mkdir()
    for split, images in splits.items():
        records = [replace(one.record, path=Path(one.name)) for one in images]
        ids = {record.image_id for record in records}
        if not all(isinstance(number, int) for number in ids) or len(ids) < len(records):
            records = [replace(record, image_id=number) for number, record in enumerate(records, start=1)]
        text = json.dumps(to_coco(tuple(records), classes), ensure_ascii=False)
        (root / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return {split: split for split in splits}, []


def _write_yolo(root: Path, splits: _Splits, classes: Classes) -> tuple[dict[str, str], list[str]]:
    """``data.yaml``, ``images/SPLIT/*`` and ``labels/SPLIT/*.txt``; the files' numbers are the class ids."""
    crowds = 0
    for split, images in splits.items():
        folder = root / "labels" / split
        folder.mkdir(parents=True)
        for image in images:
            crowds += int(image.record.iscrowd.sum())
            lines = _yolo_lines(image.record, classes)
            (folder / f"{image.stem}.txt").write_text("".join(lines), encoding="utf-8")
    folders = {split: f"images/{split}" for split in splits}
    names = dict(zip(classes.ids, classes.names, strict=True))
    document = {**folders, "nc": len(classes), "names": names}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (root / "data.yaml").write_text(text, encoding="utf-8")
    notes = []
    if crowds:
        notes.append(f"crowd regions left out, since YOLO's labels have no mark for them: {crowds}")
    if sorted(classes.ids) != list(range(len(classes))):
        notes.append(
            f"the class ids {classes.valid_ids()} are kept, and some trainers insist on 0 to {len(classes) - 1}: "
            "--renumber makes them so"
        )
    return folders, notes


def _yolo_lines(record: Record, classes: Classes) -> list[str]:
    sides = (record.width, record.height)
    lines = []
    for box, label, crowd in zip(record.boxes_xyxy.tolist(), record.labels, record.iscrowd, strict=True):
        if not crowd:
            x0, y0, x1, y1 = (value / sides[i % 2] for i, value in enumerate(box))
            numbers = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
            lines.append(f"{classes.ids[int(label)]} {' '.join(f'{value:.10g}' for value in numbers)}\n")
    return lines


def _write_voc(root: Path, splits: _Splits, classes: Classes) -> tuple[dict[str, str], list[str]]:
    """``Annotations/*.xml``, ``JPEGImages/*``, ``ImageSets/Main/SPLIT.txt`` and ``labels.txt``."""
    odd = [name for name in classes.names if name != name.strip() or any(end in name for end in _ENDS_NAMES)]
    odd += [name for name in classes.names if not name.strip() or not _xml_can_hold(name)]
    if odd:
        raise DataError(
            f"Pascal VOC cannot hold the class name {odd[0]!r}; rename it, or convert to coco or yolo"
        )
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "labels.txt").write_text("".join(f"{name}\n" for name in classes.names), encoding="utf-8")
    crowds = thin = 0
    for split, images in splits.items():
        spaced = [image.name for image in images if len(image.stem.split()) != 1]
        if spaced:
            raise DataError(
                f"Pascal VOC's lists cannot hold {spaced[0]!r}, a name with spaces; rename the file"
            )
        stems = "".join(f"{image.stem}\n" for image in images)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, encoding="utf-8")
        for image in images:
            crowds += int(image.record.iscrowd.sum())
            thin += int(_thin(image.record).sum())
            text = _voc_document(image, classes)
            (root / "Annotations" / f"{image.stem}.xml").write_text(text, encoding="utf-8")
    notes = []
    if crowds:
        notes.append(f"crowd regions marked as difficult objects: {crowds}")
    if thin:
        notes.append(
            f"boxes of one pixel or less left out, whose corners are one point in Pascal VOC: {thin}"
        )
    if classes.ids != tuple(range(len(classes))):
        notes.append(
            f"Pascal VOC has no class ids: {', '.join(map(str, classes.ids))} become 0 to {len(classes) - 1}"
        )
    return dict.fromkeys(splits, "JPEGImages"), notes


def _voc_document(image: _Image, classes: Classes) -> str:
    """One XML file; corners start at 1 and include the last pixel, as the devkit defines them."""
    record = image.record
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = image.name
    size = ET.SubElement(root, "size")
    for tag, value in (("width", record.width), ("height", record.height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    kept = ~_thin(record)
    objects = (record.boxes_xyxy[kept].tolist(), record.labels[kept], record.iscrowd[kept])
    for box, label, crowd in zip(*objects, strict=True):
        one = ET.SubElement(root, "object")
        ET.SubElement(one, "name").text = classes.names[int(label)]
        ET.SubElement(one, "difficult").text = str(int(crowd))
        place = ET.SubElement(one, "bndbox")
        corners = (box[0] + 1, box[1] + 1, box[2], box[3])
        for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ET.SubElement(place, tag).text = str(int(corner)) if corner == int(corner) else repr(corner)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _thin(record: Record) -> NDArray[np.bool_]:
    """Boxes whose last pixel is their first: read back they would have no area."""
    sides = record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2]
    return np.asarray((sides <= 1).any(axis=1), dtype=np.bool_)


def _xml_can_hold(name: str) -> bool:
    return all(letter >= " " and letter not in "\ufffe\uffff" for letter in name)


_FORMS = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}
