"""COCO JSON: ``annotations/instances_*.json``, ``{train,valid,test}/_annotations.coco.json``, or a single file."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexdetr.classes import ClassError, Classes
from flexdetr.data.dataset import DataError, Dataset, Defect, Record
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.text import TextError, read_text

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_FOLDERS = ("train", "valid", "val", "validation", "test")
_CONVENTION = re.compile(r"^(instances_.*|_annotations\.coco)\.json$")


@dataclass(frozen=True)
class CocoFile:
    """One annotation file: its split and its content; None where it cannot be read (``defect`` says why)."""

    path: Path
    split: str
    content: dict[str, Any] | None
    defect: Defect | None = None


def find(root: Path) -> list[CocoFile]:
    """The COCO files of a folder, or the given file itself; empty where there are none.

    Files that follow no naming convention count where their content is COCO's. A file that does follow one
    and cannot be read is returned with its defect.
    """
    if root.is_file():
        single = _load(root, "train")
        return [single] if single is not None else []
    candidates = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    candidates += [path for name in _FOLDERS for path in sorted((root / name).glob("*.json"))]
    conventional = [path for path in candidates if _CONVENTION.match(path.name)]
    loaded = [_load(path, split_of(path, root)) for path in conventional or candidates]
    return _one_per_split([file for file in loaded if file is not None])


def split_of(path: Path, root: Path) -> str:
    """The split that an annotation file's name, or else its folder below ``root``, speaks of; "train" by default."""
    for text in (path.stem, path.parent.name if path.parent != root else ""):
        words = re.findall(r"[a-z]+", text.lower())
        for split, names in _WORDS.items():
            if any(word in names for word in words):
                return split
    return "train"


def read(root: Path, files: list[CocoFile]) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads the files that ``find`` gave.

    Categories keep their ids; the head's order is that of the ids. A super-category without boxes is no
    class.

    Returns:
        the data set without splits, and its splits as the files give them.

    Raises:
        DataError: where the files' categories contradict each other.
    """
    defects = [file.defect for file in files if file.defect is not None]
    notes: list[str] = []
    readable = [file for file in files if file.content is not None]
    classes = _classes(readable, notes)
    splits: dict[str, tuple[Record, ...]] = {}
    for file in readable:
        splits[file.split] = tuple(_records(root, file, classes, defects))
    return Dataset(root, "coco", classes, {}, tuple(defects), tuple(notes)), splits


def _load(path: Path, split: str) -> CocoFile | None:
    """None where the file is something else than COCO."""
    conventional = bool(_CONVENTION.match(path.name))
    try:
        content = json.loads(read_text(path))
    except (TextError, json.JSONDecodeError, RecursionError) as error:
        if not conventional:
            return None
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        reason = f"is no JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        return CocoFile(path, split, None, Defect("error", path, line, reason))
    if isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "categories")
    ):
        return CocoFile(path, split, content)
    if not conventional:
        return None
    message = "is no COCO annotation: it needs the lists 'images', 'annotations' and 'categories'"
    return CocoFile(path, split, None, Defect("error", path, None, message))


def _one_per_split(files: list[CocoFile]) -> list[CocoFile]:
    by_split: dict[str, CocoFile] = {}
    for file in files:
        other = by_split.setdefault(file.split, file)
        if other is not file:
            raise DataError(
                f"{other.path} and {file.path} both look like the {file.split} split; give the split in the file's "
                "name (instances_train.json, instances_val.json ...), or pass a single file"
            )
    return files


def _classes(files: list[CocoFile], notes: list[str]) -> Classes:
    names: dict[int, str] = {}
    parents: set[str] = set()
    used: set[object] = set()
    for file in files:
        content = file.content or {}
        used |= {annotation.get("category_id") for annotation in content.get("annotations", ())}
        for category in content["categories"]:
            number, name = category.get("id"), category.get("name")
            if not isinstance(number, int) or name is None:
                raise DataError(
                    f"{file.path}: a category needs an integer 'id' and a 'name'; got {category!r}"
                )
            if names.setdefault(number, str(name)) != str(name):
                raise DataError(
                    f"{file.path}: category {number} is {name!r}, in another split it is {names[number]!r}; "
                    "the splits must share their categories"
                )
            if category.get("supercategory") not in (None, name):
                parents.add(str(category["supercategory"]))
    for number in sorted(names):
        if number in used:
            continue
        if names[number] in parents:
            notes.append(f"category {number} {names[number]!r} is an unused super-category; it is no class")
            del names[number]
        else:
            notes.append(f"category {number} {names[number]!r} has no boxes")
    numbers = tuple(sorted(names))
    try:
        return Classes(tuple(names[number] for number in numbers), numbers)
    except ClassError as error:
        raise DataError(f"{files[0].path}: categories: {error}") from error


def _records(root: Path, file: CocoFile, classes: Classes, defects: list[Defect]) -> list[Record]:
    content = file.content or {}
    index = {number: position for position, number in enumerate(classes.ids)}
    boxes: dict[object, list[RawBox]] = defaultdict(list)
    broken: set[object] = set()
    for annotation in content.get("annotations", ()):
        box = _box(annotation, index, classes)
        if isinstance(box, str):
            defects.append(Defect("error", file.path, None, f"annotation {annotation.get('id')}: {box}"))
            broken.add(annotation.get("image_id"))
        else:
            boxes[annotation.get("image_id")].append(box)
    folders = _folders(root, file)
    records: list[Record] = []
    seen: set[object] = set()
    for image in content["images"]:
        number = image.get("id")
        if not isinstance(number, int | str) or not isinstance(image.get("file_name"), str) or number in seen:
            message = f"an image needs its own 'id' and a 'file_name'; got {image!r}"
            defects.append(Defect("error", file.path, None, message))
            continue
        seen.add(number)
        if number in broken:
            continue
        width, height = image.get("width"), image.get("height")
        declared = (int(width), int(height)) if width and height else None
        path = _locate(image["file_name"], folders)
        record = assemble(RawImage(path, number, file.path, declared, boxes=boxes.get(number, [])), defects)
        if record is not None:
            records.append(record)
    for stray in boxes.keys() - seen:
        defects.append(
            Defect(
                "warning",
                file.path,
                None,
                f"{len(boxes[stray])} boxes of the unknown image {stray!r}; ignored",
            )
        )
    return records


def _box(annotation: dict[str, Any], index: dict[int, int], classes: Classes) -> RawBox | str:
    """A box, or what is wrong with it."""
    number, bbox, area = annotation.get("category_id"), annotation.get("bbox"), annotation.get("area")
    if number not in index:
        ids = classes.ids
        valid = (
            f"{min(ids)} to {max(ids)}"
            if ids and max(ids) - min(ids) + 1 == len(ids)
            else ", ".join(map(str, ids))
        )
        return f"category id {number} is none of the categories (valid: {valid})"
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or not all(isinstance(value, int | float) for value in bbox)
    ):
        return f"bbox must be [x, y, width, height]; got {bbox!r}"
    x, y, w, h = (float(value) for value in bbox)
    return RawBox(
        (x, y, x + w, y + h),
        index[number],
        None,
        f"annotation {annotation.get('id')}",
        bool(annotation.get("iscrowd", 0)),
        float(area) if isinstance(area, int | float) else None,
    )


def _folders(root: Path, file: CocoFile) -> list[Path]:
    """Where the images of an annotation file may be, likeliest first."""
    base = root if root.is_dir() else root.parent
    stem = file.path.stem.removeprefix("instances_")
    names = [stem, f"images/{stem}", *(f"images/{word}" for word in _WORDS[file.split]), *_WORDS[file.split]]
    here = file.path.parent
    return [here, here / "images", *(base / name for name in names), base / "images", base, base.parent]


def _locate(name: str, folders: list[Path]) -> Path:
    """The first existing place of an image; the folder that holds it is looked into first the next time."""
    for position, folder in enumerate(folders):
        if (folder / name).is_file():
            if position:
                folders.insert(0, folders.pop(position))
            return folder / name
    return folders[0] / name
