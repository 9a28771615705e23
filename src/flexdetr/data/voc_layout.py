"""Where a Pascal VOC data set keeps its XML files, and which split each belongs to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from flexdetr.data.dataset import SPLITS, DataError
from flexdetr.data.split_words import SPLIT_FOLDERS, split_named
from flexdetr.data.text import TextError, read_text
from flexdetr.data.tree import Tree, files_in
from flexdetr.runtime.folders import IMAGE_SUFFIXES

ANNOTATION_FOLDERS = ("Annotations", "annotations", "xmls", "labels")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
_FIRST = 4096  # bytes in which an annotation says that it is one
_TRIED = 20  # XML files
_SHOWN = 3


@dataclass(frozen=True)
class Layout:
    """By split the XML files of a data set; notes say how they were chosen."""

    sources: dict[str, list[Path]]
    notes: tuple[str, ...] = ()


def find(tree: Tree) -> Layout | None:
    """The layout of a VOC data set; None if no XML file is a VOC annotation.

    Lists in ``ImageSets/Main`` give the splits, else folders that are named like splits. Where some XML files are in
    folders for annotations, only those count.
    """
    files = [path for path in tree.files if path.suffix.lower() == ".xml"]
    inside = [path for path in files if _in_annotations(path, tree.root)]
    files = inside or files
    if not any(map(_is_annotation, files[:_TRIED])):
        return None
    lists = _lists(tree)
    if lists:
        return _listed(tree, files, lists)
    sources: dict[str, list[Path]] = {}
    for path in files:
        sources.setdefault(split_named(path.relative_to(tree.root).parts[:-1]) or "train", []).append(path)
    return Layout(sources)


def is_root(folder: Path) -> bool:
    """Whether a folder looks like the root of a VOC data set; looks only where XML files usually are."""
    images = [folder / name for name in IMAGE_FOLDERS]
    tops = [folder, *(top / name for top in (folder, *images) for name in SPLIT_FOLDERS)]
    places = [*tops, *(top / name for top in tops for name in ANNOTATION_FOLDERS)]
    return any(map(_is_annotation, (path for place in places for path in files_in(place, ".xml")[:_TRIED])))


def _in_annotations(path: Path, root: Path) -> bool:
    names = {name.lower() for name in path.relative_to(root).parts[:-1]}
    return bool(names & {name.lower() for name in ANNOTATION_FOLDERS})


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<annotation>" in file.read(_FIRST).replace(
                b"\0", b""
            )  # UTF-16 has a zero beside each letter
    except OSError:
        return False


def _lists(tree: Tree) -> dict[Path, dict[str, Path]]:
    """By devkit its lists of images, by split."""
    found: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in tree.files:
        main = path.parent
        if path.suffix == ".txt" and (main.parent.name.lower(), main.name.lower()) == ("imagesets", "main"):
            if path.stem in (*SPLITS, "trainval"):
                found[main.parent.parent][path.stem] = path
            tree.use(path)
    return dict(found)


def _listed(tree: Tree, files: list[Path], lists: dict[Path, dict[str, Path]]) -> Layout:
    notes: list[str] = []
    sources: dict[str, list[Path]] = {}
    for root, by_split in lists.items():
        mine = {path: path for path in files if path.is_relative_to(root)}
        by_name = {path.stem: path for path in reversed(mine)}
        folder = next(iter(mine), root / "Annotations" / "x").parent
        for split, names in _stems(by_split, notes).items():
            for name in names:
                path = folder / f"{name}.xml"
                sources.setdefault(split, []).append(path if path in mine else by_name.get(name, path))
    listed = {path for paths in sources.values() for path in paths}
    left = [path for path in files if path not in listed]
    if left:
        named = ", ".join(path.name for path in left[:_SHOWN]) + (" ..." if len(left) > _SHOWN else "")
        notes.append(f"{len(left)} XML files are in no list of ImageSets/Main and were left out: {named}")
    tree.use(*left)
    return Layout(sources, tuple(notes))


def _stems(lists: dict[str, Path], notes: list[str]) -> dict[str, list[str]]:
    stems = {split: _names(path) for split, path in lists.items()}
    if "trainval" in stems and "train" not in stems:
        held_out = {*stems.get("val", ()), *stems.get("test", ())}
        stems["train"] = [stem for stem in stems["trainval"] if stem not in held_out]
        notes.append("ImageSets/Main has trainval.txt and no train.txt: the training split was taken from it")
    stems.pop("trainval", None)
    return stems


def _names(path: Path) -> list[str]:
    """The first word of each line without the suffix of an image; some lists give a -1/1 flag after it."""
    try:
        lines = read_text(path).splitlines()
    except TextError as error:
        raise DataError(f"{path} {error}") from error
    words = [line.split()[0] for line in lines if line.strip()]
    names = [
        word[: -len(Path(word).suffix)] if Path(word).suffix.lower() in _SUFFIXES else word for word in words
    ]
    return [*dict.fromkeys(names)]


_SUFFIXES = {*IMAGE_SUFFIXES, ".xml"}
