"""COCO JSON: ``annotations/instances_*.json``, ``{train,valid,test}/_annotations.coco.json``, or a single file."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexdetr.classes import ClassError, Classes
from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.text import TextError, read_text

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_NOTHING: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
_LISTS = tuple(_NOTHING)
FOLDERS = ("train", "valid", "val", "validation", "test")
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
    candidates += [path for name in FOLDERS for path in sorted((root / name).glob("*.json"))]
    conventional = [path for path in candidates if is_conventional(path)]
    loaded = [_load(path, split_of(path, root)) for path in conventional or candidates]
    return _one_per_split([file for file in loaded if file is not None])


def is_conventional(path: Path) -> bool:
    """Whether a file's name says that it is COCO's."""
    return bool(_CONVENTION.match(path.name))


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
    conventional = is_conventional(path)
    try:
        content = json.loads(read_text(path))
    except (TextError, json.JSONDecodeError, RecursionError) as error:
        if not conventional:
            return None
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        reason = f"is no JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        return CocoFile(path, split, None, Defect("error", path, line, reason, split))
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _LISTS):
        return CocoFile(path, split, content)
    if not conventional:
        return None
    message = "is no COCO annotation: it needs the lists 'images', 'annotations' and 'categories'"
    return CocoFile(path, split, None, Defect("error", path, None, message, split))


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
        content = file.content or _NOTHING
        used |= {annotation.get("category_id") for annotation in content["annotations"]}
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
    content = file.content or _NOTHING
    found: list[Defect] = []
    boxes, broken = _boxes(file, classes, found)
    folders = _folders(root, file)
    records: list[Record] = []
    seen: set[object] = set()
    for image in content["images"]:
        number, name = image.get("id"), image.get("file_name")
        if not isinstance(number, int | str) or not isinstance(name, str) or number in seen:
            message = f"an image needs an 'id' of its own and a 'file_name'; got {image!r}"
            found.append(Defect("error", file.path, None, message))
            continue
        seen.add(number)
        if number in broken:
            continue
        width, height = image.get("width"), image.get("height")
        declared = (int(width), int(height)) if width and height else None
        raw = RawImage(_locate(name, folders), number, file.path, declared, boxes=boxes.get(number, []))
        record = assemble(raw, found)
        if record is not None:
            records.append(record)
    for stray in sorted(boxes.keys() - seen, key=str):
        message = f"{len(boxes[stray])} boxes of the unknown image {stray!r}; ignored"
        found.append(Defect("warning", file.path, boxes[stray][0].line, message))
    defects += in_split(_with_lines(file.path, found), file.split)
    return records


def _boxes(
    file: CocoFile, classes: Classes, found: list[Defect]
) -> tuple[dict[object, list[RawBox]], set[object]]:
    """The boxes by image id, and the ids of images with an annotation that cannot be used."""
    index = {number: position for position, number in enumerate(classes.ids)}
    boxes: dict[object, list[RawBox]] = defaultdict(list)
    broken: set[object] = set()
    for place, annotation in enumerate((file.content or _NOTHING)["annotations"]):
        box = _box(annotation, place, index, classes)
        if isinstance(box, str):
            found.append(Defect("error", file.path, place, f"annotation {annotation.get('id')}: {box}"))
            broken.add(annotation.get("image_id"))
        else:
            boxes[annotation.get("image_id")].append(box)
    return boxes, broken


def _box(annotation: dict[str, Any], place: int, index: dict[int, int], classes: Classes) -> RawBox | str:
    """A box, whose ``line`` is its place in the list of annotations, or what is wrong with it."""
    number, bbox, area = annotation.get("category_id"), annotation.get("bbox"), annotation.get("area")
    if number not in index:
        return f"category id {number} is none of the categories (valid: {classes.valid_ids()})"
    if not isinstance(bbox, list) or [isinstance(value, int | float) for value in bbox] != [True] * 4:
        return f"bbox must be [x, y, width, height]; got {bbox!r}"
    x, y, w, h = (float(value) for value in bbox)
    return RawBox(
        (x, y, x + w, y + h),
        index[number],
        place,
        f"annotation {annotation.get('id')}",
        bool(annotation.get("iscrowd", 0)),
        float(area) if isinstance(area, int | float) else None,
    )


def _with_lines(path: Path, found: list[Defect]) -> list[Defect]:
    """The defects with lines of the file, where so far they held an annotation's place in the list."""
    if not any(defect.file == path and defect.line is not None for defect in found):
        return found
    lines = _annotation_lines(read_text(path))

    def located(defect: Defect) -> Defect:
        if defect.file != path or defect.line is None:
            return defect
        return replace(defect, line=lines[defect.line] if defect.line < len(lines) else None)

    return [located(defect) for defect in found]


def _annotation_lines(text: str) -> list[int]:
    """The line on which each element of the list "annotations" begins; the JSON parser itself does not tell."""
    begin = re.search(r'"annotations"\s*:\s*\[', text)
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    position, line, counted, lines = begin.end() if begin else len(text), 1, 0, list[int]()
    while (match := gap.match(text, position)) and text[match.end() : match.end() + 1] == "{":
        start = match.end()
        line, counted = line + text.count("\n", counted, start), start
        lines.append(line)
        position = decoder.raw_decode(text, start)[1]
    return lines


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
