"""What a YOLO data set consists of: a ``data.yaml``, Darknet's ``obj.data``, or a ``classes.txt`` beside the images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexdetr.classes import ClassError, Classes
from flexdetr.data.dataset import DataError
from flexdetr.data.split_words import split_named
from flexdetr.data.text import TextError, read_text
from flexdetr.data.tree import LocateError, Tree, files_in
from flexdetr.data.values import shown, whole
from flexdetr.runtime.folders import IMAGE_SUFFIXES
from flexdetr.yaml_text import YamlError, parse_yaml

SUFFIXES = (".yaml", ".yml", ".data")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml")
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_CLASS_FILES = ("classes.txt", "obj.names")
_NOTHING = ("", "null", "Null", "NULL", "~")
_LONGEST = 16 * 2**20  # bytes of a file that describes a data set


@dataclass(frozen=True)
class DataYaml:
    """A description of a data set.

    Attributes:
        path: the file.
        classes: with the ids that the label files use.
        entries: by split, folders, list files or images, as they are written.
        base: folder that they start from, as it is written.
        keypoint_values: numbers that follow a box in a label line of a pose data set; 0 if there are none.
        images: by split, where no entries are written.
    """

    path: Path
    classes: Classes
    entries: dict[str, list[str]] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
    keypoint_values: int = 0
    images: dict[str, list[Path]] = field(default_factory=dict)


def find(root: Path) -> DataYaml | None:
    """The description in a folder; None if there is none.

    Raises:
        DataError: if there is one that cannot be used, or several of which none has the usual name.
    """
    files = files_in(root, ".yaml", ".yml")
    for name in _USUAL:
        if root / name in files:
            return load(root / name)
    fitting = [path for path in files if _describes(path)]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        raise DataError(
            f"{root} holds several descriptions of a data set: {names}; name the one that is meant"
        )
    if not fitting:
        fitting = [path for path in files_in(root, ".data") if {"train", "names"} <= _settings(path).keys()]
    return load(fitting[0]) if fitting else None


def is_root(folder: Path) -> bool:
    """Whether a folder holds a description, or a class file."""
    usual = (*_USUAL, *_CLASS_FILES)
    files = files_in(folder, *SUFFIXES, ".txt", ".names")
    return any(path.name in usual or (path.suffix != ".txt" and _describes(path)) for path in files)


def find_classes(tree: Tree) -> DataYaml | None:
    """Images with label files beside a ``classes.txt`` or ``obj.names``; None if there are none.

    Raises:
        DataError: if two class files contradict each other.
    """
    files = [path for path in tree.files if path.name.lower() in _CLASS_FILES]
    if not files:
        return None
    known = {path: _named_lines(path) for path in files}
    first = files[0]
    for path, names in known.items():
        if names != known[first]:
            raise DataError(f"{first} and {path} name other classes; leave one of them, or write a data.yaml")
    images: dict[str, list[Path]] = {}
    for path in tree.files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            split = split_named(path.relative_to(tree.root).parts[:-1]) or "train"
            images.setdefault(split, []).append(path)
    tree.use(*files)
    return DataYaml(first, _classes(first, known[first]), images=images) if images else None


def load(path: Path) -> DataYaml:
    """Reads a description.

    Raises:
        DataError: if it cannot be used.
    """
    if path.suffix.lower() == ".data":
        content: Any = _settings(path)
    else:
        try:
            content = parse_yaml(read_text(path, most=_LONGEST), as_written=True)
        except (TextError, YamlError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{path} needs a key 'names': a list of class names, or a mapping from id to name")
    classes = _classes(path, content["names"])
    count = content.get("nc", "")
    if count not in _NOTHING and whole(count) != len(classes):
        raise DataError(f"{path} states nc: {count} and gives {len(classes)} names; make them agree")
    entries: dict[str, list[str]] = {}
    for split, keys in _KEYS.items():
        value = next((content[key] for key in keys if key in content and content[key] not in _NOTHING), None)
        if value:
            entries[split] = _entries(path, split, value)
    if not entries:
        raise DataError(f"{path} names no images; give 'train' (and 'val', 'test') a folder or a list file")
    base = content.get("path")
    return DataYaml(
        path,
        classes,
        entries,
        Path(base.replace("\\", "/")) if isinstance(base, str) and base not in _NOTHING else Path(),
        _keypoint_values(path, content.get("kpt_shape")),
    )


def _entries(path: Path, split: str, value: object) -> list[str]:
    entries = [*value] if isinstance(value, list) else [value]
    texts = [entry for entry in entries if isinstance(entry, str)]
    if len(texts) < len(entries):
        raise DataError(
            f"{path}: {split} must be a folder, a list file, or a list of these; got {shown(value)}"
        )
    return texts


def _keypoint_values(path: Path, shape: object) -> int:
    if shape is None or shape in _NOTHING:
        return 0
    numbers = [whole(value) for value in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or not 1 <= (numbers[0] or 0) <= 10_000 or numbers[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape must be [number of keypoints, 2 or 3]; got {shown(shape)}")
    return (numbers[0] or 0) * (numbers[1] or 0)


def _classes(path: Path, names: object) -> Classes:
    if isinstance(names, str) and not names.isdigit():
        try:
            names = _named_lines(Tree(path.parent).locate(names, (path.parent,)))
        except LocateError as error:
            raise DataError(
                f"{path}: names must be a list or a mapping from id to name, or a file of them: {error}"
            ) from None
    try:
        if isinstance(names, list) and names:
            names = dict(enumerate(names))
        if isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
            ids = {number: whole(number) for number in names}
            odd = [number for number, read in ids.items() if read is None or abs(read) >= 2**63]
            if odd:
                raise DataError(f"{path}: names: {shown(odd[0])} is not a class id; ids are whole numbers")
            pairs = sorted((ids[number] or 0, name) for number, name in names.items())
            return Classes(tuple(name for _, name in pairs), tuple(number for number, _ in pairs))
    except ClassError as error:
        raise DataError(f"{path}: names: {error}") from error
    raise DataError(
        f"{path}: names must be a list of class names, or a mapping from id to name; got {shown(names)}"
    )


def _named_lines(path: Path) -> dict[int, str]:
    """The class names of a text file by their line's number, from 0."""
    try:
        lines = read_text(path, most=_LONGEST).splitlines()
    except TextError as error:
        raise DataError(f"{path} {error}") from error
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def _describes(path: Path) -> bool:
    if path.suffix.lower() == ".data":
        return {"train", "names"} <= _settings(path).keys()
    try:
        content = parse_yaml(read_text(path, most=_LONGEST))
    except (TextError, YamlError):
        return False
    return isinstance(content, dict) and "names" in content and "train" in content


def _settings(path: Path) -> dict[str, str]:
    """Darknet's ``key = value`` lines."""
    try:
        lines = read_text(path, most=_LONGEST).splitlines()
    except TextError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    pairs = (re.fullmatch(r"\s*(\w+)\s*=\s*(.*?)\s*", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair}
