"""Detects a data set's format from its files, and reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flexdetr.config_values import some_of
from flexdetr.data import coco, foreign_formats, voc, voc_layout, yolo, yolo_yaml
from flexdetr.data.dataset import SPLITS, DataError, Dataset, Record, UnrecognisedDataError, cut_validation
from flexdetr.data.split_words import SPLIT_FOLDERS
from flexdetr.data.tree import Tree
from flexdetr.runtime.folders import IMAGE_SUFFIXES

# Folders inside a data set, which are not taken for its root when a file in them is given.
_INNER = {
    *SPLIT_FOLDERS,
    *voc_layout.ANNOTATION_FOLDERS,
    *voc_layout.IMAGE_FOLDERS,
    "data",
    "ImageSets",
    "Main",
}
_LABELS = (".txt", ".xml", ".json")
_DEEPEST = 4

_Read = tuple[Dataset, dict[str, tuple[Record, ...]]]


def read(root: str | Path, *, val_fraction: float | None = 0.15, seed: int = 0) -> Dataset:
    """Reads a data set in COCO JSON, Pascal VOC XML or YOLO txt.

    Args:
        root: the folder, or a file: a JSON file or a ``data.yaml`` is read itself and nothing else beside it; an image
            or a label file stands for the data set around it.
        val_fraction: share of the training images taken for validation where the data set has no such split; None
            leaves the splits as they are.
        seed: decides which.

    Returns:
        the data set; files that cannot be used are among its ``defects``, not in its splits.

    Raises:
        UnrecognisedDataError: if no data set is recognised.
        DataError: if it contradicts itself.
    """
    given = Path(root)
    try:
        if not given.exists():
            raise UnrecognisedDataError(f"{given} does not exist")
        dataset, splits = _read_folder(given) if given.is_dir() else _read_file(given)
    except OSError as error:  # a name that no file can have, a folder that may not be listed
        raise UnrecognisedDataError(f"{str(root)!r} cannot be opened: {error.strerror or error}") from error
    if val_fraction is None:
        return replace(dataset, splits={name: splits[name] for name in SPLITS if splits.get(name)})
    found, notes = cut_validation(splits, val_fraction, seed)
    return replace(dataset, splits=found, notes=(*dataset.notes, *notes))


def _read_file(given: Path) -> _Read:
    if not given.is_file():
        raise UnrecognisedDataError(f"{given} is neither a file nor a folder; pass the data set's folder")
    suffix = given.suffix.lower()
    if suffix == ".json":
        return _read_json(given)
    if suffix in yolo_yaml.SUFFIXES:
        return yolo.read(yolo_yaml.load(given), named=True)
    root = _around(given)
    if root is None:
        raise UnrecognisedDataError(
            f"{given} is neither COCO JSON nor a data.yaml nor VOC XML; pass the data set's folder"
        )
    dataset, splits = _read_folder(root, prefer="VOC" if suffix == ".xml" else "")
    note = f"{given.name} stands for the data set around it, {root}"
    return replace(dataset, notes=(note, *dataset.notes)), splits


def _read_json(path: Path) -> _Read:
    file = coco.find_file(path)
    if file.content is None:
        reason = file.defect.message if file.defect is not None else "cannot be read"
        raise UnrecognisedDataError(f"{path} is not COCO JSON: {reason}{foreign_formats.hint([path])}")
    inner = path.parent.name in _INNER and path.parent.parent != path.parent
    return coco.read(Tree(path.parent.parent if inner else path.parent), [file], named=True)


def _read_folder(root: Path, prefer: str = "") -> _Read:
    tree = Tree(root)
    files = coco.find(root)
    data = None
    try:
        data = yolo_yaml.find(root)
    except DataError:
        if not files:  # otherwise it belongs to something else
            raise
    layout = voc_layout.find(tree)
    if not (files or data or layout):
        data = yolo_yaml.find_classes(tree)
    kinds = [kind for kind, found in (("COCO", files), ("YOLO", data), ("VOC", layout)) if found]
    kinds.sort(key=lambda kind: kind != prefer)
    if not kinds:
        _refuse_classes(tree)
        raise UnrecognisedDataError(_unrecognised(tree))
    if kinds[0] == "COCO":
        dataset, splits = coco.read(tree, files)
    elif kinds[0] == "YOLO" and data is not None:
        dataset, splits = yolo.read(data, tree if data.images else None)
    elif layout is not None:
        dataset, splits = voc.read(layout, tree)
    if len(kinds) > 1:
        note = f"read as {kinds[0]}; the folder also holds what looks like {' and '.join(kinds[1:])}"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return dataset, splits


def format_of(root: Path) -> str | None:
    """The format that a folder's annotations have, by looking at few files; None if none is recognised."""
    try:
        if coco.find(root):
            return "COCO"
        if yolo_yaml.find(root):
            return "YOLO"
    except DataError:  # annotations that contradict themselves are annotations
        return "COCO or YOLO"
    return "VOC" if voc_layout.find(Tree(root)) else None


def _around(given: Path) -> Path | None:
    """The folder of the data set that a file belongs to."""
    for folder in given.absolute().parents[:_DEEPEST]:
        if folder.name in _INNER:
            continue
        if coco.is_root(folder) or voc_layout.is_root(folder) or yolo_yaml.is_root(folder):
            return folder
    return None


def _refuse_classes(tree: Tree) -> None:
    """Answer a classifier's data: folders of pictures that are not labelled one by one."""
    from flexdetr.data.class_folders import class_folders  # which asks here for what it does not read

    names = sorted({folder.name for folder in class_folders(tree.root)})
    suffixes = [path.suffix.lower() for path in tree.files]
    labels = sum(suffix in _LABELS for suffix in suffixes)
    unlabelled = 2 * labels < sum(suffix in IMAGE_SUFFIXES for suffix in suffixes)
    inner = {name.lower() for name in _INNER}  # folders of a detection data set are no classes
    if unlabelled and len(names) > 1 and not any(name.lower() in inner for name in names):
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        raise UnrecognisedDataError(
            f"{tree.root} holds no labels that are known, but folders of pictures ({shown}) that look like the classes "
            f"of a classifier: flexdetr train {tree.root} --model hgnetv2_b0_cls"
        )


def _unrecognised(tree: Tree) -> str:
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in tree.root.iterdir())
    shown = some_of(found, 8)
    labels = sum(path.suffix.lower() == ".txt" for path in tree.files)
    hint = foreign_formats.hint(tree.files)
    deeper = min((path for path in tree.files if path.name.lower() == "data.yaml"), default=None)
    if deeper is not None:
        hint = f" There is {deeper.relative_to(tree.root)}: if that is the data set, name {deeper.parent}."
    elif not hint and labels:
        hint = (
            f" There are {labels} txt files; if they are YOLO labels, write a data.yaml beside them, or a classes.txt "
            "with the name of a class in each line."
        )
    return (
        f"{tree.root} holds no data set that is recognised. Looked for:\n"
        "  COCO: annotations/instances_*.json, {train,valid,test}/_annotations.coco.json, or a JSON file with 'images' "
        "and 'categories'\n"
        "  VOC:  Annotations/*.xml with JPEGImages/ and ImageSets/Main/*.txt, {train,valid,test}/*.xml, or XML files "
        "beside their images\n"
        "  YOLO: data.yaml with 'names' and 'train', and labels/*.txt beside images/\n"
        f"Found: {shown or 'an empty folder'}.{hint}"
    )
