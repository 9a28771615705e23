"""COCO JSON: ``annotations/instances_*.json``, ``{train,valid,test}/_annotations.coco.json``, or a single file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from flexdetr.classes import Classes
from flexdetr.data.coco_boxes import Boxes, read_boxes
from flexdetr.data.coco_categories import classes_of
from flexdetr.data.coco_file import CocoFile, is_conventional, load
from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawImage, assemble
from flexdetr.data.values import identity, number, shown

__all__ = ["FOLDERS", "find", "is_conventional", "read", "split_of"]

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
FOLDERS = ("train", "valid", "val", "validation", "test")


def find(root: Path) -> list[CocoFile]:
    """The COCO files of a folder, or the given file itself; empty where there are none.

    Files that follow no naming convention count where their content is COCO's. A file that does follow one
    and cannot be read is returned with its defect.
    """
    if root.is_file():
        single = load(root, "train")
        return [single] if single is not None else []
    candidates = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    candidates += [path for name in FOLDERS for path in sorted((root / name).glob("*.json"))]
    conventional = [path for path in candidates if is_conventional(path)]
    loaded = [load(path, split_of(path, root)) for path in conventional or candidates]
    return _one_per_split([file for file in loaded if file is not None])


def split_of(path: Path, root: Path) -> str:
    """The split that an annotation file's name, or else its folder below ``root``, speaks of; "train" by default."""
    inside = path.parent != root or path.parent.name in FOLDERS  # any other root's name says nothing
    for text in (path.stem, path.parent.name if inside else ""):
        words = re.findall(r"[a-z]+", text.lower())
        for split, names in _WORDS.items():
            if any(word in names for word in words):
                return split
    return "train"


def read(root: Path, files: list[CocoFile]) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads the files that ``find`` gave.

    Categories keep their ids; the head's order is that of the ids. A super-category without boxes is no
    class.

    Raises:
        DataError: where the files' categories contradict each other.
    """
    defects = [file.defect for file in files if file.defect is not None]
    notes: list[str] = []
    readable = [file for file in files if file.content is not None]
    classes = classes_of(readable, notes)
    splits: dict[str, tuple[Record, ...]] = {}
    for file in readable:
        splits[file.split] = tuple(_records(root, file, classes, defects, notes))
    written = {file.split: len(file.entries("annotations")) for file in readable}
    return Dataset(root, "coco", classes, {}, tuple(defects), tuple(notes), written), splits


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


def _records(
    root: Path, file: CocoFile, classes: Classes, defects: list[Defect], notes: list[str]
) -> list[Record]:
    boxes = read_boxes(file, classes)
    found: list[Defect] = []
    folders = _folders(root, file)
    records: list[Record] = []
    seen: set[int | str] = set()
    odd_sizes: list[int] = []
    for place, image in enumerate(file.entries("images")):
        fields = image if isinstance(image, dict) else {}
        identifier, name = identity(fields.get("id")), fields.get("file_name")
        if identifier is None or not isinstance(name, str) or not name.strip() or identifier in seen:
            message = f"an image needs an 'id' of its own and a 'file_name'; got {shown(image)}"
            found.append(file.error("images", place, message))
            continue
        seen.add(identifier)
        if identifier in boxes.broken:
            continue
        declared = _declared(fields)
        if declared is None and (fields.get("width") or fields.get("height")):
            odd_sizes.append(place)
        path = _locate(name, folders)
        raw = RawImage(path, identifier, file.path, declared, boxes=boxes.of_image.get(identifier, []))
        of_image: list[Defect] = []
        record = assemble(raw, of_image)
        found += (_with_line(file, defect) for defect in of_image)
        if record is not None:
            records.append(record)
    if odd_sizes:
        message = (
            f"{len(odd_sizes)} images state a width or height that is no size; the pictures' own were taken"
        )
        found.append(replace(file.error("images", odd_sizes[0], message), severity="warning"))
    if boxes.outlined:
        notes.append(
            f"{boxes.outlined} annotations of {file.path.name} have no bbox; the boxes around their outlines were taken"
        )
    found += _strays(file, boxes, seen)
    defects += in_split([*boxes.defects, *found], file.split)
    return records


def _declared(image: dict[str, object]) -> tuple[int, int] | None:
    """(width, height) as an image's entry states them; None where they are no size."""
    width, height = number(image.get("width")), number(image.get("height"))
    if width is None or height is None or width < 1 or height < 1:
        return None
    return round(width), round(height)


def _with_line(file: CocoFile, defect: Defect) -> Defect:
    """A defect with a line of the file, where so far it holds an annotation's place in the list."""
    if defect.file != file.path or defect.line is None:
        return defect
    return replace(defect, line=file.lines.of("annotations", defect.line))


def _strays(file: CocoFile, boxes: Boxes, seen: set[int | str]) -> list[Defect]:
    """A warning for each image that has boxes and is not among the images."""
    found = []
    for stray in sorted(boxes.of_image.keys() - seen, key=str):
        mine = boxes.of_image[stray]
        message = f"{len(mine)} boxes of the unknown image {shown(stray)}; ignored"
        found.append(_with_line(file, Defect("warning", file.path, mine[0].line, message)))
    return found


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
    if "/" in name or "\\" in name:  # some tools write the path on the machine where the labels were made
        return _locate(re.split(r"[/\\]", name)[-1], folders)
    return folders[0] / name
