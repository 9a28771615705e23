"""The box around an object that is described by its outline: polygons, or COCO's run-length masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.values import number, whole

Box = tuple[float, float, float, float]
_LARGEST = 2**31  # pixels of a mask


def box_around(segmentation: object) -> Box | None:
    """The xyxy box around a COCO ``segmentation``.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, ...]``, a single such list, or a mask
            ``{"size": [height, width], "counts": ...}`` whose runs are a list or COCO's compressed text.

    Returns:
        None if it is none of these, or covers no area.
    """
    box = _around_runs(segmentation) if isinstance(segmentation, dict) else _around_polygons(segmentation)
    return box if box is not None and box[2] > box[0] and box[3] > box[1] else None


def _around_polygons(outline: object) -> Box | None:
    if not isinstance(outline, list) or not outline:
        return None
    polygons = outline if all(isinstance(part, list) for part in outline) else [outline]
    corners: list[list[float]] = [[], []]
    for polygon in polygons:
        values = [number(value) for value in polygon]
        if len(values) < 6 or len(values) % 2:
            return None
        for index, value in enumerate(values):
            if value is None:
                return None
            corners[index % 2].append(value)
    xs, ys = corners
    return min(xs), min(ys), max(xs), max(ys)


def _around_runs(mask: dict[object, object]) -> Box | None:
    """Runs go down the columns, the first one outside of the object."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = (whole(side) for side in size)
    if not height or not width or min(height, width) < 1 or height * width > _LARGEST:
        return None
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif isinstance(counts, list):
        runs = [whole(count) for count in counts]
    else:
        return None
    if any(run is None or not 0 <= run <= _LARGEST for run in runs):
        return None
    return _around_pixels(np.array(runs, dtype=np.int64), height, width)


def _around_pixels(runs: NDArray[np.int64], height: int, width: int) -> Box | None:
    ends = np.cumsum(runs)
    if not len(ends) or ends[-1] != height * width:
        return None
    last = ends[1::2] - 1  # of each run that is inside
    first = ends[0::2][: len(last)]
    inside = last >= first
    first, last = first[inside], last[inside]
    if not len(first):
        return None
    left, right = first // height, last // height
    several = right > left  # such a run goes on from the lower edge to the upper one
    top = np.where(several, 0, first % height)
    bottom = np.where(several, height - 1, last % height)
    return float(left.min()), float(top.min()), float(right.max() + 1), float(bottom.max() + 1)


def _decompress(text: str) -> list[int | None]:
    """Runs from COCO's text: five bits a letter, lowest first; the fourth and later ones add to the last but one."""
    runs: list[int | None] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return [None]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        before = runs[-2] if len(runs) > 2 else 0
        runs.append(value + (before or 0))
        value = shift = 0
    return runs if not shift else [None]
