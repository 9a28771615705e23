"""From a format's raw annotations to records: sizes, orientation, clipping, and what was wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.dataset import Defect, Record
from flexdetr.data.images import ImageError, ImageInfo, probe

# Rounded fractions and rounded pixels stray this far over the edge; less is no finding.
_CLIP_TOLERANCE = 0.1
# Two boxes of one class that overlap this much are one object labelled twice.
_REPEAT_IOU = 0.9


class RawBox(NamedTuple):
    """A box as a format gives it.

    Attributes:
        xyxy: pixels that start at 0, or fractions (see ``RawImage.fractions``).
        label: index of the head's class.
        line: line of the annotation file.
        name: how to name the box in a message if there are no lines, like "annotation 17".
        iscrowd: COCO's crowd flag.
        area: the annotation's own area in pixels.
    """

    xyxy: tuple[float, float, float, float]
    label: int
    line: int | None = None
    name: str = ""
    iscrowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class RawImage:
    """An image as a format gives it.

    Attributes:
        path: the image file.
        image_id: unique in the split.
        source: the annotation file, named in defects.
        declared: (width, height) that the annotation states.
        fractions: boxes are fractions of the upright image.
        boxes: its objects.
    """

    path: Path
    image_id: int | str
    source: Path
    declared: tuple[int, int] | None = None
    fractions: bool = False
    boxes: list[RawBox] = field(default_factory=list)


def fraction_like(boxes_xyxy: Sequence[tuple[float, float, float, float]]) -> NDArray[np.bool_]:
    """(N,) of boxes that were meant as pixels: which look like fractions of the image, of 0 to 1.

    Whole numbers do not: they may be the image's first pixel.
    """
    boxes = np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    inside = ((boxes >= -0.5) & (boxes <= 1.5)).all(axis=1)
    small = (np.diff(boxes.reshape(-1, 2, 2), axis=1)[:, 0] <= 1).all(axis=1)
    broken = (boxes != np.round(boxes)).any(axis=1)
    return np.asarray(inside & small & broken, dtype=np.bool_)


def assemble(raw: RawImage, defects: list[Defect]) -> Record | None:
    """A clean record of an image: upright, in pixels, clipped, without boxes of zero area.

    What is wrong is added to ``defects``.

    Returns:
        None if the image or its annotation cannot be used; an error among ``defects`` says why.
    """
    try:
        info = probe(raw.path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{raw.path}: ")
        asked = f" (asked for by {raw.source.name})" if raw.source != raw.path else ""
        defects.append(Defect("error", raw.path, None, reason + asked))
        return None
    boxes = np.array([box.xyxy for box in raw.boxes], dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        broken = raw.boxes[int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])]
        defects.append(Defect("error", raw.source, broken.line, f"{_name(broken)}coordinates are not finite"))
        return None
    width, height = info.oriented
    if raw.fractions:
        boxes = boxes * np.array([width, height, width, height])
    else:
        upright = _upright(raw, info, boxes, defects)
        if upright is None:
            return None
        boxes = upright
    return _record(raw, boxes, (width, height), defects)


def _record(
    raw: RawImage, boxes_xyxy: NDArray[np.float64], size: tuple[int, int], defects: list[Defect]
) -> Record:
    width, height = size
    limits = np.array([width, height, width, height])
    clipped = np.clip(boxes_xyxy, 0, limits)
    keep = np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1), dtype=np.bool_)
    _report(raw, boxes_xyxy, clipped, keep, size, defects)
    kept = [box for box, good in zip(raw.boxes, keep, strict=True) if good]
    final = clipped[keep].astype(np.float32)
    sides = final[:, 2:] - final[:, :2]
    areas = [
        box.area if box.area is not None else float(w * h) for box, (w, h) in zip(kept, sides, strict=True)
    ]
    return Record(
        raw.path,
        raw.image_id,
        width,
        height,
        final,
        np.array([box.label for box in kept], dtype=np.int64),
        np.array([box.iscrowd for box in kept], dtype=np.bool_),
        np.array(areas, dtype=np.float32),
    )


def _report(
    raw: RawImage,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    keep: NDArray[np.bool_],
    size: tuple[int, int],
    defects: list[Defect],
) -> None:
    """Adds a warning for each box that was dropped or clipped, or that repeats another."""

    def warn(index: int, message: str) -> None:
        box, corners = raw.boxes[index], ", ".join(f"{value:g}" for value in before[index])
        text = f"{_name(box)}box [{corners}] (x0, y0, x1, y1) {message}"
        defects.append(Defect("warning", raw.source, box.line, text))

    empty = np.asarray((before[:, 2:] <= before[:, :2]).any(axis=1))
    moved = np.asarray((np.abs(before - after) > _CLIP_TOLERANCE).any(axis=1))
    image = f"the image of {size[0]}x{size[1]}"
    for index in np.flatnonzero(~keep | moved).tolist():
        if empty[index]:
            warn(index, "has zero area; dropped")
        elif not keep[index]:
            warn(index, f"lies outside {image}; dropped")
        else:
            warn(index, f"reaches outside {image}; clipped to it")
    for index, earlier in _repeats(after, np.array([box.label for box in raw.boxes]), keep):
        first = raw.boxes[earlier]
        alike = "repeats" if (after[index] == after[earlier]).all() else "is nearly the same as"
        warn(index, f"{alike} {first.name or f'line {first.line}'} of the same class; kept")


def _repeats(
    boxes_xyxy: NDArray[np.float64], labels: NDArray[np.int64], keep: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Pairs (index, earlier index) of kept boxes of one class that cover nearly the same pixels."""
    if len(labels) < 2:
        return
    low = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    same = shared >= _REPEAT_IOU * (areas[:, None] + areas - shared)
    same &= (labels[:, None] == labels) & keep[:, None] & keep
    for index in np.flatnonzero(np.tril(same, k=-1).any(axis=1)).tolist():
        yield index, int(same[index].argmax())


def _upright(
    raw: RawImage, info: ImageInfo, boxes_xyxy: NDArray[np.float64], defects: list[Defect]
) -> NDArray[np.float64] | None:
    """Boxes in the frame of the upright image, by the size that the annotation states."""
    declared, oriented, stored = raw.declared, info.oriented, (info.width, info.height)
    if declared is None or declared == oriented:
        return boxes_xyxy
    if declared == stored:  # the annotation was made on the pixels as stored
        return _rotate(boxes_xyxy, info)
    stated = f"the annotation states {declared[0]}x{declared[1]}, the image has {oriented[0]}x{oriented[1]}"
    fits = not len(boxes_xyxy) or bool((boxes_xyxy[:, 2:].max(axis=0) <= np.array(oriented) + 1).all())
    if declared == oriented[::-1] and fits:
        defects.append(
            Defect(
                "warning", raw.source, None, f"{stated}; the boxes fit the image and are taken as they are"
            )
        )
        return boxes_xyxy
    defects.append(
        Defect(
            "error",
            raw.source,
            None,
            f"{stated} ({raw.path.name}); label the image again or restore its size",
        )
    )
    return None


def _rotate(boxes_xyxy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.float64]:
    """Boxes on the stored pixels of an image whose sides are exchanged (orientation 5 to 8), as seen upright."""
    x0, y0, x1, y1 = boxes_xyxy.T
    width, height = info.width, info.height
    if info.orientation in (6, 7):  # stored rows run from right to left
        y0, y1 = height - y1, height - y0
    if info.orientation in (7, 8):  # stored columns run from bottom to top
        x0, x1 = width - x1, width - x0
    return np.stack([y0, x0, y1, x1], axis=1)


def _name(box: RawBox) -> str:
    return f"{box.name}: " if box.name else ""
