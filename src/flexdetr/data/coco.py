"""COCO JSON: ``annotations/instances_*.json``, ``{train,valid,test}/_annotations.coco.json``, or a single file."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flexdetr.classes import Classes
from flexdetr.data.coco_boxes import Boxes, read_boxes
from flexdetr.data.coco_categories import classes_of
from flexdetr.data.coco_file import CocoFile, is_conventional, load
from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawImage, assemble
from flexdetr.data.split_words import SPLIT_FOLDERS, WORDS, split_named
from flexdetr.data.tree import LocateError, Tree, files_in
from flexdetr.data.unread_files import unused_files
from flexdetr.data.values import identity, number, shown

_ANNOTATION_FOLDERS = ("annotations", "Annotations", "labels")


def find(root: Path) -> list[CocoFile]:
    """The COCO files of a folder; empty if there are none.

    Files that follow no naming convention count where their content is COCO's. A file that does follow one
    and cannot be read is returned with its defect.

    Raises:
        DataError: if two files describe the same split.
    """
    folders = [root, *(root / name for name in (*_ANNOTATION_FOLDERS, *SPLIT_FOLDERS))]
    candidates = [path for folder in folders for path in files_in(folder, ".json")]
    conventional = [path for path in candidates if is_conventional(path)]
    loaded = [load(path, split_of(path, root)) for path in conventional or candidates]
    return _one_per_split([file for file in loaded if file is not None])


def find_file(path: Path) -> CocoFile:
    """The COCO file that was named; where it is none, it has a defect that says why."""
    file = load(path, split_of(path, path.parent), named=True)
    return file if file is not None else CocoFile(path, "train", None)


def is_root(folder: Path) -> bool:
    """Whether a folder holds files that are named like COCO's; reads none of them."""
    folders = [folder, *(folder / name for name in (*_ANNOTATION_FOLDERS, *SPLIT_FOLDERS))]
    return any(is_conventional(path) for place in folders for path in files_in(place, ".json"))


def split_of(path: Path, root: Path) -> str:
    """The split that an annotation file's name, or else its folder below ``root``, speaks of; "train" by default."""
    inside = path.parent != root or path.parent.name in SPLIT_FOLDERS  # any other root's name says nothing
    return split_named((path.stem,)) or split_named((path.parent.name,) if inside else ()) or "train"


def read(
    tree: Tree, files: list[CocoFile], *, named: bool = False
) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads COCO files.

    Categories keep their ids; the head's order is that of the ids. A super-category without boxes is no
    class.

    Raises:
        DataError: if the files' categories contradict each other.
    """
    defects = [file.defect for file in files if file.defect is not None]
    notes: list[str] = []
    readable = [file for file in files if file.content is not None]
    classes = classes_of(readable, notes)
    splits: dict[str, tuple[Record, ...]] = {}
    tree.use(*(file.path for file in files))
    for file in readable:
        splits[file.split] = tuple(_records(tree, file, classes, defects, notes))
    left = [] if named else unused_files(tree).defects
    written = {file.split: len(file.entries("annotations")) for file in readable}
    root = files[0].path if named else tree.root
    return Dataset(root, "coco", classes, {}, (*left, *defects), tuple(notes), written), splits


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
    tree: Tree, file: CocoFile, classes: Classes, defects: list[Defect], notes: list[str]
) -> list[Record]:
    boxes = read_boxes(file, classes)
    found: list[Defect] = []
    paths = _Images(tree, file)
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
        declared = _declared(fields)
        if declared is None and (fields.get("width") or fields.get("height")):
            odd_sizes.append(place)
        path = paths.of(place, name, found)
        if path is None or identifier in boxes.broken:
            continue
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
    """(width, height) as an image's entry states them; None if they are no size."""
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
    stem = file.path.stem.removeprefix("instances_")
    words = WORDS[file.split]
    names = [stem, f"images/{stem}", *(f"images/{word}" for word in words), *words, "images", "data", "."]
    here = file.path.parent
    return [here, here / "images", here / "data", *(root / name for name in names), root.parent]


class _Images:
    """Finds the images of an annotation file, and refuses two names of one picture."""

    def __init__(self, tree: Tree, file: CocoFile) -> None:
        self._tree, self._file = tree, file
        self._folders = _folders(tree.root, file)
        self._located: dict[str, Path | LocateError] = {}
        names = [image.get("file_name") for image in file.entries("images") if isinstance(image, dict)]
        written: dict[Path, set[str]] = defaultdict(set)
        for name in {name for name in names if isinstance(name, str)}:
            with suppress(LocateError):
                written[self._locate(name)].add("/".join(Path(name.replace("\\", "/")).parts))
        self._claimed = {path: sorted(mine) for path, mine in written.items() if len(mine) > 1}

    def _locate(self, name: str) -> Path:
        if name not in self._located:
            try:
                self._located[name] = self._tree.locate(name, self._folders)
            except LocateError as error:
                self._located[name] = error
        found = self._located[name]
        if isinstance(found, LocateError):
            raise found
        return found

    def of(self, place: int, name: str, found: list[Defect]) -> Path | None:
        """The image of the entry at a place of the list; None if it is not clear which, with an error."""
        try:
            path = self._locate(name)
        except LocateError as error:
            found.append(self._file.error("images", place, str(error)))
            return None
        self._tree.use(path)
        exact = path.as_posix().endswith("/".join(Path(name.replace("\\", "/")).parts))
        if path in self._claimed and not exact:
            names = " and ".join(map(repr, self._claimed[path]))
            message = (
                f"{names} lead to one picture, {path}; write the whole path of each below {self._tree.root}"
            )
            found.append(self._file.error("images", place, message))
            return None
        return path
