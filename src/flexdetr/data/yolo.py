"""YOLO txt labels with a ``data.yaml``: ``class cx cy w h`` or ``class x1 y1 x2 y2 ...``, all as fractions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexdetr.classes import ClassError, Classes
from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.text import TextError, read_text
from flexdetr.runtime.folders import IMAGE_SUFFIXES
from flexdetr.yaml_text import YamlError, parse_yaml

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# A coordinate beyond this is in pixels, not a fraction that strays over the edge.
_LARGEST_FRACTION = 1.5


@dataclass(frozen=True)
class DataYaml:
    """A ``data.yaml``: where it lies, the class names with their ids, and its split entries."""

    path: Path
    classes: Classes
    entries: dict[str, list[str]]
    base: Path


class LineError(ValueError):
    """A label line that cannot be read."""


def find(root: Path) -> DataYaml | None:
    """The ``data.yaml`` (or another YAML file with names and splits) of a folder; None where there is none.

    Raises:
        DataError: where ``data.yaml`` is there and cannot be used.
    """
    certain = [
        path for path in (root / "data.yaml", root / "data.yml", root / "dataset.yaml") if path.is_file()
    ]
    for path in certain:
        return _load(path)
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        content = _content(path)
        if isinstance(content, dict) and "names" in content and "train" in content:
            return _load(path)
    return None


def read(root: Path, data: DataYaml) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads a YOLO data set.

    The classes' ids are the numbers that the label files use. An image without a label file has no objects.
    Polygons become the boxes around them.

    Raises:
        DataError: where an entry of ``data.yaml`` leads nowhere.
    """
    defects: list[Defect] = []
    notes: list[str] = []
    splits: dict[str, tuple[Record, ...]] = {}
    written: dict[str, int] = {}
    polygons = 0
    for split, entries in data.entries.items():
        try:
            images = [path for entry in entries for path in _images(data, split, entry)]
        except DataError as error:
            if split != "test":
                raise
            defects.append(Defect("warning", data.path, None, f"{error}; there will be no test split"))
            continue
        ids = _image_ids(images)
        records: list[Record | None] = []
        found: list[Defect] = []
        for path in images:
            boxes, outlines, lines = _labels(path, data.classes, found)
            written[split] = written.get(split, 0) + lines
            polygons += outlines
            if boxes is not None:
                raw = RawImage(path, ids[path], label_file(path), fractions=True, boxes=boxes)
                records.append(assemble(raw, found))
        defects += in_split(found, split)
        splits[split] = tuple(record for record in records if record is not None)
    if polygons:
        notes.append(f"{polygons} label lines are polygons; the boxes around them were taken")
    return Dataset(root, "yolo", data.classes, {}, tuple(defects), tuple(notes), written), splits


def label_file(image: Path) -> Path:
    """Where the labels of an image are: ``labels`` in place of the last folder ``images``, otherwise beside it."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def parse_line(line: str, classes: Classes) -> tuple[int, tuple[float, float, float, float], bool]:
    """One label line.

    Args:
        line: ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...`` in fractions.
        classes: gives the valid ids.

    Returns:
        index of the head's class, box as xyxy fractions, and whether the line is a polygon.

    Raises:
        LineError: what is wrong with it.
    """
    words = line.split()
    try:
        number = float(words[0])
        values = [float(word) for word in words[1:]]
    except ValueError as error:
        raise LineError(f"holds something else than numbers: {error}") from None
    if not number.is_integer() or int(number) not in classes.ids:
        raise LineError(
            f"class id {words[0]} is outside the names of data.yaml (valid: {classes.valid_ids()})"
        )
    index = classes.index_of_id(int(number))
    if any(not -0.5 <= value <= _LARGEST_FRACTION for value in values):
        raise LineError("coordinates must be fractions of the image's width and height, between 0 and 1")
    if len(values) == 4:
        cx, cy, w, h = values
        return index, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), False
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        return index, (min(xs), min(ys), max(xs), max(ys)), True
    raise LineError(
        f"has {len(values)} numbers after the class; a box has 4, a polygon an even count of at least 6"
    )


def _labels(image: Path, classes: Classes, defects: list[Defect]) -> tuple[list[RawBox] | None, int, int]:
    """The boxes of an image, None where a line is unusable; how many are polygons; how many labels there are."""
    path = label_file(image)
    if not path.is_file():
        return [], 0, 0
    try:
        lines = read_text(path).splitlines()
    except TextError as error:
        defects.append(Defect("error", path, None, str(error)))
        return None, 0, 0
    boxes: list[RawBox] = []
    polygons, usable, written = 0, True, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        written += 1
        try:
            index, xyxy, outline = parse_line(line, classes)
        except LineError as error:
            defects.append(Defect("error", path, number, str(error)))
            usable = False
            continue
        boxes.append(RawBox(xyxy, index, number))
        polygons += outline
    return (boxes if usable else None), polygons, written


def _content(path: Path) -> Any:  # noqa: ANN401 - whatever the YAML file holds
    try:
        return parse_yaml(read_text(path))
    except (TextError, YamlError):
        return None


def _load(path: Path) -> DataYaml:
    try:
        content = parse_yaml(read_text(path))
    except (TextError, YamlError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{path} needs a key 'names': a list of class names, or a mapping from id to name")
    classes = _classes(path, content["names"])
    count = content.get("nc")
    if count is not None and count != len(classes):
        raise DataError(f"{path} states nc: {count} and gives {len(classes)} names; make them agree")
    entries: dict[str, list[str]] = {}
    for split, keys in _KEYS.items():
        value = next((content[key] for key in keys if content.get(key)), None)
        if value is not None:
            entries[split] = [str(entry) for entry in (value if isinstance(value, list) else [value])]
    if not entries:
        raise DataError(f"{path} names no images; give 'train' (and 'val', 'test') a folder or a list file")
    base = Path(str(content["path"])) if content.get("path") else Path()
    return DataYaml(path, classes, entries, base)


def _classes(path: Path, names: object) -> Classes:
    try:
        if isinstance(names, dict):
            pairs = sorted((int(number), str(name)) for number, name in names.items())
            return Classes(tuple(name for _, name in pairs), tuple(number for number, _ in pairs))
        if isinstance(names, list) and names:
            return Classes.of(names)
    except (ClassError, ValueError) as error:
        raise DataError(f"{path}: names: {error}") from error
    raise DataError(
        f"{path}: names must be a list of class names, or a mapping from id to name; got {names!r}"
    )


def _images(data: DataYaml, split: str, entry: str) -> list[Path]:
    """The images of one entry: a folder, or a text file that lists images."""
    target = _resolve(data, entry)
    if target is None:
        raise DataError(
            f"{data.path}: {split}: {entry!r} was not found, neither below 'path' nor beside data.yaml"
        )
    if target.is_dir():
        images = [path for path in sorted(target.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise DataError(f"{data.path}: {split}: there are no images in {target}")
        return images
    if target.suffix.lower() in IMAGE_SUFFIXES:
        return [target]
    try:
        lines = [line.strip() for line in read_text(target).splitlines() if line.strip()]
    except TextError as error:
        raise DataError(f"{target} {error}") from error
    return [_listed(data, target, line) for line in lines]


def _resolve(data: DataYaml, entry: str) -> Path | None:
    folder = data.path.parent
    stripped = entry.replace("\\", "/")
    while stripped.startswith("../"):  # Roboflow writes ../train/images for a folder beside data.yaml
        stripped = stripped[3:]
    places = [folder / data.base / entry, folder / entry, folder / stripped]
    places += [place / "images" for place in (folder / data.base, folder) if entry in (".", "./")]
    return next((place for place in places if place.exists()), None)


def _listed(data: DataYaml, listing: Path, line: str) -> Path:
    places = (listing.parent / line, data.path.parent / data.base / line, data.path.parent / line)
    return next((place for place in places if place.is_file()), places[0])


def _image_ids(images: list[Path]) -> dict[Path, str]:
    """Stems; where two images share one, folder and stem."""
    stems = [path.stem for path in images]
    twice = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    return {
        path: f"{path.parent.as_posix()}/{path.stem}" if path.stem in twice else path.stem for path in images
    }
