"""YOLO txt labels: ``class cx cy w h`` or ``class x1 y1 x2 y2 ...``, all as fractions."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.text import TextError, read_text
from flexdetr.data.tree import LocateError, Tree, place_of, unique_ids
from flexdetr.data.unread_files import unused_files
from flexdetr.data.yolo_lines import NOTES, Form, LineError, Row, read_row, split_line, unusual_forms
from flexdetr.data.yolo_yaml import DataYaml
from flexdetr.runtime.folders import IMAGE_SUFFIXES, NPY, list_files

_SHOWN = 3


@dataclass
class _Labels:
    """The label file of an image; ``rows`` is None if it cannot be used."""

    path: Path
    rows: list[Row] | None = field(default_factory=list)
    written: int = 0


def read(
    data: DataYaml, tree: Tree | None = None, *, named: bool = False
) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads a YOLO data set.

    The classes' ids are the numbers that the label files use. An image without a label file has no objects.
    Polygons become the boxes around them.

    ``tree`` None takes the files of the description's folder, or of the ``path`` that it names. The user
    ``named`` a description that is the data set's root.

    Returns:
        the data set without splits, and its splits as the description gives them.

    Raises:
        DataError: if an entry of the description leads nowhere.
    """
    tree = tree or Tree(_root(data))
    tree.use(data.path)
    defects: list[Defect] = []
    images = data.images or _images_by_split(data, tree, defects)
    finder = _LabelFiles(tree)
    labels = {
        split: [_read_labels(finder.of(path), split, defects) for path in paths]
        for split, paths in images.items()
    }
    usable = (one.rows for mine in labels.values() for one in mine if one.rows)
    forms = unusual_forms((row for rows in usable for row in rows), data.keypoint_values)
    met: Counter[Form] = Counter()
    splits: dict[str, tuple[Record, ...]] = {}
    for split, paths in images.items():
        found: list[Defect] = []
        records: list[Record] = []
        for path, identifier, mine in zip(paths, unique_ids(paths, tree.root), labels[split], strict=True):
            boxes = _boxes(mine, data, forms, met, found)
            if boxes is None:
                continue
            record = assemble(RawImage(path, identifier, mine.path, fractions=True, boxes=boxes), found)
            if record is not None:
                records.append(record)
        splits[split] = tuple(records)
        defects += in_split(found, split)
    tree.use(*(path for paths in images.values() for path in paths))
    tree.use(*(one.path for mine in labels.values() for one in mine))
    defects += _shared(tree, images, labels)
    unused = unused_files(tree)
    notes = tuple(f"{met[form]} {text}" for form, text in NOTES.items() if met[form])
    written = {split: sum(one.written for one in mine) for split, mine in labels.items()}
    root = data.path if named else data.path.parent
    return Dataset(
        root, "yolo", data.classes, {}, (*unused.defects, *defects), notes, written, unused.strays
    ), splits


def _root(data: DataYaml) -> Path:
    """The folder of the description, or the one that it names where that lies elsewhere."""
    folder = data.path.parent
    base = folder / data.base
    try:
        elsewhere = base.is_dir() and not folder.resolve().is_relative_to(base.resolve())
        return base if elsewhere and not base.resolve().is_relative_to(folder.resolve()) else folder
    except (OSError, ValueError):  # no path of a file system
        return folder


def _conventional(image: Path, parts: tuple[str, ...], before: Path | None = None) -> Iterator[Path]:
    """Places of a label file, likeliest first: ``labels`` for the last folder ``images``, ..., beside the image.

    ``parts`` are the folders around the image, below ``before``.
    """
    before = before or Path()
    for index in reversed(range(len(parts))):
        if parts[index] == "images":
            yield before.joinpath(*parts[:index], "labels", *parts[index + 1 :], f"{image.stem}.txt")
    yield image.with_suffix(".txt")


class _LabelFiles:
    """Finds the label file of an image: by YOLO's convention, beside it, or where folders differ only in their kind."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._by_place: dict[tuple[str, ...], list[Path]] | None = None

    def of(self, image: Path) -> Path:
        """The label file; if there is none, the place where it is looked for first."""
        root = self._tree.root
        below = image.is_relative_to(root)
        parts = image.relative_to(root).parts[:-1] if below else image.parent.parts
        candidates = [*_conventional(image, parts, root if below else None)]
        for path in candidates:
            if self._tree.has(path):
                return path
        if below:
            elsewhere = self._places().get(place_of(image, root), [])
            if len(elsewhere) == 1:
                return elsewhere[0]
        return candidates[0]

    def _places(self) -> dict[tuple[str, ...], list[Path]]:
        if self._by_place is None:
            self._by_place = defaultdict(list)
            for path in self._tree.files:
                if path.suffix.lower() == ".txt":
                    self._by_place[place_of(path, self._tree.root)].append(path)
        return self._by_place


def _read_labels(path: Path, split: str, defects: list[Defect]) -> _Labels:
    try:
        lines = read_text(path).splitlines()
    except TextError as error:
        if str(error) == "file not found":
            return _Labels(path)
        defects.append(Defect("error", path, None, str(error), split))
        return _Labels(path, None)
    rows: list[Row] = []
    written, usable = 0, True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        written += 1
        try:
            rows.append(split_line(number, line))
        except LineError as error:
            defects.append(Defect("error", path, number, str(error), split))
            usable = False
    return _Labels(path, rows if usable else None, written)


def _boxes(
    labels: _Labels, data: DataYaml, forms: dict[int, Form], met: Counter[Form], defects: list[Defect]
) -> list[RawBox] | None:
    """The boxes of an image; None if a line is unusable."""
    if labels.rows is None:
        return None
    boxes: list[RawBox] = []
    for row in labels.rows:
        try:
            index, xyxy, form = read_row(row, data.classes, forms)
        except LineError as error:
            defects.append(Defect("error", labels.path, row.line, str(error)))
            continue
        boxes.append(RawBox(xyxy, index, row.line))
        met[form] += 1
    return boxes if len(boxes) == len(labels.rows) else None


def _images_by_split(data: DataYaml, tree: Tree, defects: list[Defect]) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = {}
    for split, entries in data.entries.items():
        found: list[Defect] = []
        try:
            paths = [path for entry in entries for path in _images(data, tree, split, entry, found)]
        except DataError as error:
            if split != "test":
                raise
            defects.append(Defect("warning", data.path, None, f"{error}; there will be no test split"))
            continue
        images[split] = [*dict.fromkeys(paths)]
        if len(images[split]) < len(paths):
            message = f"{len(paths) - len(images[split])} images of the {split} split are named twice; each counts once"
            found.append(Defect("warning", data.path, None, message))
        defects += in_split(found, split)
    return images


def _images(data: DataYaml, tree: Tree, split: str, entry: str, defects: list[Defect]) -> list[Path]:
    """The images of one entry: a folder, an image, or a text file that lists images."""
    target = _resolve(data, tree, entry)
    if target is None:
        raise DataError(
            f"{data.path}: {split}: {entry!r} was not found, neither below 'path' nor beside {data.path.name}"
        )
    if target.is_dir():
        files = list_files(target).files
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        images = images or [path for path in files if path.suffix.lower() == NPY]
        if not images:
            raise DataError(f"{data.path}: {split}: there are no images in {target}")
        return images
    if target.suffix.lower() in IMAGE_SUFFIXES or target.suffix.lower() == NPY:
        return [target]
    try:
        lines = [line.strip() for line in read_text(target).splitlines()]
    except TextError as error:
        raise DataError(f"{target} {error}") from error
    tree.use(target)
    folder = data.path.parent
    images = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                images.append(tree.locate(line, (target.parent, folder / data.base, folder)))
            except LocateError as error:
                defects.append(Defect("error", target, number, str(error)))
    return images


def _resolve(data: DataYaml, tree: Tree, entry: str) -> Path | None:
    folder, plain = data.path.parent, entry.strip().replace("\\", "/")
    stripped = plain
    while stripped.startswith("../"):  # Roboflow writes ../train/images for a folder beside data.yaml
        stripped = stripped[3:]
    places = [folder / data.base / plain, folder / plain, folder / stripped]
    places += [place / "images" for place in (folder / data.base, folder) if entry in (".", "./")]
    for place in places:
        path = Path(os.path.normpath(place)) if ".." not in plain else place
        try:
            if path.exists():
                return path
        except (OSError, ValueError):  # no path of a file system
            continue
    below = tree.find_folder(plain)
    if below is not None:
        return below
    try:
        return tree.locate(plain) if Path(plain).suffix else None
    except LocateError:
        return None


def _shared(tree: Tree, images: dict[str, list[Path]], labels: dict[str, list[_Labels]]) -> list[Defect]:
    """A warning where one label file is that of several images."""
    users: dict[Path, list[Path]] = defaultdict(list)
    for split, paths in images.items():
        for path, mine in zip(paths, labels[split], strict=True):
            if mine.written and path not in users[mine.path]:
                users[mine.path].append(path)
    several = [path for path, mine in users.items() if len(mine) > 1]
    if not several:
        return []
    named = ", ".join(path.name for path in several[:_SHOWN]) + (" ..." if len(several) > _SHOWN else "")
    message = f"{len(several)} label files belong to several images that differ only in their suffix: {named}"
    return [Defect("warning", tree.root, None, message)]
