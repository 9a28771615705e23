"""Large pictures in overlapping tiles, so that small objects keep their pixels, and what was found put together again.

After Akyon, Altinuc and Temizel, "Slicing Aided Hyper Inference and Fine-tuning for Small Object Detection" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.overlaps import iou_matrix

Merge = Literal["nms", "fusion"]
# A box is a piece of an object where it ends at a tile's inner border, give or take this share of the tile's side ...
_AT_BORDER = 0.005
# ... and goes where this share of it lies in a whole box of its class ...
_INSIDE = 0.6
# ... whose score is at least this share of the piece's.
_COMPARABLE = 0.5


class Tile(NamedTuple):
    """A part of a picture, in pixels; right and bottom are excluded."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Slicing:
    """How a picture is cut into tiles, and how their objects become the picture's.

    Attributes:
        size: (height, width) of the tiles in pixels, or one number for both. A picture that is no larger is one tile.
        overlap: share of a tile that the next one repeats, in [0, 0.9]; objects up to this share of a tile's side are
            whole in one of the tiles.
        merge: "nms" keeps the best of boxes of one class that overlap; "fusion" takes their mean, weighted by the
            scores, with the best one's score (after Solovyev, Wang and Gabruseva, "Weighted boxes fusion" (2021), who
            lower the score where few models agree: here places are seen by one tile or by several).
        iou: from which IoU on two boxes of a class are one object.
        whole: look at the whole picture too, which finds what is larger than a tile.

    Raises:
        ValueError: if a value is out of its range.
    """

    size: int | tuple[int, int] = 640
    overlap: float = 0.2
    merge: Merge = "nms"
    iou: float = 0.5
    whole: bool = True

    def __post_init__(self) -> None:
        if min(self.sides) < 32:
            raise ValueError(f"a tile has at least 32 pixels on each side; got {self.size}")
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(f"tiles overlap by a share between 0 and 0.9; got {self.overlap}")
        if not 0 < self.iou <= 1:
            raise ValueError(f"the IoU of boxes that are one object is above 0 and at most 1; got {self.iou}")
        if self.merge not in get_args(Merge):
            raise ValueError(nearest(self.merge, get_args(Merge), "merge"))

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of a tile."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def tiles(height: int, width: int, slicing: Slicing) -> list[Tile]:
    """Tiles of one size that cover a picture, in rows, overlapping by at least the share that was asked for.

    They are spread evenly: the last one ends at the picture's border.
    """
    tall, wide = slicing.sides
    tops = _starts(height, tall, slicing.overlap)
    lefts = _starts(width, wide, slicing.overlap)
    return [
        Tile(left, top, min(left + wide, width), min(top + tall, height)) for top in tops for left in lefts
    ]


def detect_sliced(
    detect: Callable[[list[NDArray[np.uint8]]], Sequence[Detections]],
    image: NDArray[np.uint8],
    slicing: Slicing,
) -> Detections:
    """The objects of a picture, found in its tiles.

    ``detect`` is called once, with all tiles; ``image`` is (H, W, 3) uint8 RGB.

    Returns:
        Detections in pixels of the picture, best first; in each class no two whose IoU reaches ``slicing.iou``.
    """
    height, width = image.shape[:2]
    places = tiles(height, width, slicing)
    if slicing.whole and len(places) > 1:
        places.append(Tile(0, 0, width, height))
    found = detect(
        [np.ascontiguousarray(image[one.top : one.bottom, one.left : one.right]) for one in places]
    )
    parts, pieces = [], []
    for place, objects in zip(places, found, strict=True):
        pieces.append(_pieces(objects.boxes_xyxy, place, (height, width)))
        shift = np.array([place.left, place.top] * 2, np.float32)
        parts.append(replace(objects, boxes_xyxy=objects.boxes_xyxy + shift, size=(height, width)))
    return merge(Detections.concatenate(parts), np.concatenate(pieces), slicing)


def merge(found: Detections, pieces: NDArray[np.bool_], slicing: Slicing) -> Detections:
    """One box an object, of boxes that several tiles gave for it.

    ``found`` is in pixels of the picture; ``pieces`` (N,) says which end at a tile's inner border.

    Returns:
        Detections, best first.
    """
    order = np.argsort(-found.scores, kind="stable")
    found, pieces = found[order], pieces[order]
    boxes = found.boxes_xyxy.astype(np.float64)
    scores, labels = found.scores.astype(np.float64), found.labels
    chosen: list[int] = []
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        own = own[~_of_whole_ones(boxes[own], scores[own], pieces[own])]
        while len(own):
            best, rest = own[0], own[1:]
            same = iou_matrix(boxes[best : best + 1], boxes[rest])[0] >= slicing.iou
            if slicing.merge == "fusion":
                members = np.concatenate([[best], rest[same]])
                weights = scores[members] + np.finfo(np.float64).tiny  # scores may all be zero
                boxes[best] = weights @ boxes[members] / weights.sum()
            chosen.append(int(best))
            own = rest[~same]
    kept = np.sort(np.array(chosen, np.int64))
    return replace(found[kept], boxes_xyxy=boxes[kept].astype(np.float32))


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one side."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [int(start) for start in np.floor(np.linspace(0, length - tile, count))]


def _pieces(boxes_xyxy: NDArray[np.float32], tile: Tile, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes, in pixels of the tile, end at a border of it that is not the picture's."""
    height, width = tile.bottom - tile.top, tile.right - tile.left
    margin = max(1.0, _AT_BORDER * max(height, width))
    x0, y0, x1, y1 = boxes_xyxy.T
    ends = (x0 <= margin) & (tile.left > 0)
    ends |= (y0 <= margin) & (tile.top > 0)
    ends |= (x1 >= width - margin) & (tile.right < size[1])
    ends |= (y1 >= height - margin) & (tile.bottom < size[0])
    return np.asarray(ends, dtype=np.bool_)


def _of_whole_ones(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], pieces: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which boxes are pieces of an object that a whole box shows."""
    cut, whole = np.flatnonzero(pieces), np.flatnonzero(~pieces)
    parts = np.zeros(len(boxes), np.bool_)
    if len(cut) and len(whole):
        inside = iou_matrix(boxes[cut], boxes[whole], of_first=True) >= _INSIDE
        parts[cut] = (inside & (scores[whole] >= _COMPARABLE * scores[cut, None])).any(axis=1)
    return parts
