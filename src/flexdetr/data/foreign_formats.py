"""Annotations of tools whose own formats are not read: which they are, and how to convert them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_TRIED = 5  # files of each kind
_FIRST = 65_536  # bytes in which a file shows what it is
# By suffix: words that all stand near the beginning of such a file, the tool, and what to do.
_SIGNS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    ".json": (
        (
            ('"shapes"', '"imagePath"'),
            "labelme's JSON files: convert them to COCO with the package labelme2coco (labelme2coco FOLDER)",
        ),
        (
            ('"regions"', '"shape_attributes"'),
            "files of the VGG Image Annotator (VIA): export them again there as COCO (Annotation, Export Annotations)",
        ),
        (
            ('"annotations"', '"result"', '"data"'),
            "Label Studio's own JSON: export the project again there as COCO or YOLO",
        ),
        (('"bbox"', '"score"', '"image_id"'), "COCO results, which are detections and no annotations"),
    ),
    ".csv": (
        (
            ("region_shape_attributes",),
            "files of the VGG Image Annotator (VIA): export them again there as COCO (Annotation, Export Annotations)",
        ),
    ),
    ".xml": (
        (
            ("<annotations>",),
            "CVAT's own XML: export the task again there as COCO 1.0, or as Ultralytics YOLO Detection 1.0",
        ),
    ),
    ".tfrecord": (((), "TFRecord files: export the data again as COCO or Pascal VOC where they were made"),),
}


def hint(files: Sequence[Path]) -> str:
    """A sentence about the first of these files that a known tool wrote; empty if none is known."""
    for suffix, signs in _SIGNS.items():
        for path in [path for path in files if path.suffix.lower() == suffix][:_TRIED]:
            text = _beginning(path)
            for words, what in signs:
                if all(word in text for word in words):
                    return f" {path.name} looks like {what}."
    return ""


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_FIRST).replace(b"\0", b"").decode("utf-8", "replace")
    except OSError:
        return ""
