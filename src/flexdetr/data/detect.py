"""Recognises a data set's format by looking, and reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flexdetr.data import coco, voc, yolo
from flexdetr.data.dataset import SPLITS, Dataset, Record, UnrecognisedDataError, cut_validation

# Folders inside a data set, which are not taken for its root when a file in them is given.
_INNER = {*coco.FOLDERS, *voc.ANNOTATION_FOLDERS, *voc.IMAGE_FOLDERS, "ImageSets", "Main"}
_DEEPEST = 4


def read(root: str | Path, *, val_fraction: float | None = 0.15, seed: int = 0) -> Dataset:
    """Reads a data set in COCO JSON, Pascal VOC XML or YOLO txt.

    Args:
        root: the folder, or a file inside it.
        val_fraction: share of the training images taken for validation where the data set has no such split; None
            leaves the splits as they are.
        seed: decides which.

    Returns:
        the data set; files that cannot be used are among its ``defects``, not in its splits.

    Raises:
        UnrecognisedDataError: where no data set is recognised.
        DataError: where it contradicts itself.
    """
    given = Path(root)
    if not given.exists():
        raise UnrecognisedDataError(f"{given} does not exist")
    dataset, splits = _read(given)
    if val_fraction is None:
        return replace(dataset, splits={name: splits[name] for name in SPLITS if splits.get(name)})
    found, notes = cut_validation(splits, val_fraction, seed)
    return replace(dataset, splits=found, notes=(*dataset.notes, *notes))


def _read(given: Path) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    root = _folder(given)
    if root.is_file():
        files = coco.find(root)
        if files:
            return coco.read(root, files)
        raise UnrecognisedDataError(
            f"{root} is no COCO JSON, no data.yaml and no VOC XML; pass the data set's folder"
        )
    files = coco.find(root)
    data = yolo.find(root)
    layout = voc.find(root)
    kinds = [kind for kind, found in (("COCO", files), ("YOLO", data), ("VOC", layout)) if found]
    if files:
        dataset, splits = coco.read(root, files)
    elif data is not None:
        dataset, splits = yolo.read(root, data)
    elif layout is not None:
        dataset, splits = voc.read(root, layout)
    else:
        raise UnrecognisedDataError(_unrecognised(root))
    if len(kinds) > 1:
        note = f"read as {kinds[0]}; the folder also holds what looks like {' and '.join(kinds[1:])}"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return dataset, splits


def _folder(given: Path) -> Path:
    """The folder of the data set that a file belongs to; a JSON file outside the conventions stands for itself."""
    if given.is_dir():
        return given
    if given.suffix.lower() == ".json" and not coco.is_conventional(given):
        return given
    outer = (folder for folder in given.absolute().parents[:_DEEPEST] if folder.name not in _INNER)
    return next(
        (folder for folder in outer if coco.find(folder) or yolo.find(folder) or voc.find(folder)), given
    )


def _unrecognised(root: Path) -> str:
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    labels = sum(1 for _ in root.rglob("*.txt"))
    hint = (
        f" There are {labels} txt files; if they are YOLO labels, write a data.yaml beside them."
        if labels
        else ""
    )
    return (
        f"{root} holds no data set that is recognised. Looked for:\n"
        "  COCO: annotations/instances_*.json, {train,valid,test}/_annotations.coco.json, or a JSON file with 'images' "
        "and 'categories'\n"
        "  VOC:  Annotations/*.xml with JPEGImages/ and ImageSets/Main/*.txt, {train,valid,test}/*.xml, or XML files "
        "beside their images\n"
        "  YOLO: data.yaml with 'names' and 'train', and labels/*.txt beside images/\n"
        f"Found: {shown or 'an empty folder'}.{hint}"
    )
