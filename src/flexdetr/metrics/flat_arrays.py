"""Labelled images and what was found in them, from one object an image to flat arrays over the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.metrics.matching import AllDetections, Objects

if TYPE_CHECKING:
    from flexdetr.data.dataset import Record


class DetectionsError(ValueError):
    """Detections that cannot be scored; the message names the image and what is wrong."""


# boxes_xyxy (N, 4) in pixels, scores (N,) and head indices (N,) of what was found.
FoundInImage = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer]]
FoundByImage = Mapping[int | str, FoundInImage]


def gather(
    ground_truth: Sequence[Record], detections: FoundByImage, num_classes: int
) -> tuple[Objects, AllDetections, int]:
    """Flat arrays of all objects and all detections.

    Returns:
        The objects, the detections, and the number of images by which their groups were formed.

    Raises:
        DetectionsError: if detections name an unknown image or class, hold a NaN, or do not fit together; or if
            an image id occurs twice.
    """
    rows = image_rows([record.image_id for record in ground_truth])
    for image_id, entry in detections.items():
        if image_id not in rows:
            raise DetectionsError(f"detections of image {image_id!r}, which is not among the labelled images")
        _check_detections(image_id, entry, num_classes)
    num_images = max(len(rows), 1)
    objects = Objects(
        _joined([record.labels * num_images + rows[record.image_id] for record in ground_truth], np.int64),
        _xywh(_joined([record.boxes_xyxy for record in ground_truth], np.float64, 4)),
        _joined([record.areas for record in ground_truth], np.float64),
        _joined([record.iscrowd for record in ground_truth], np.bool_),
    )
    groups = [
        np.asarray(indices, np.int64) * num_images + rows[image_id]
        for image_id, (_, _, indices) in detections.items()
    ]
    found = AllDetections(
        _joined(groups, np.int64),
        _xywh(_joined([boxes for boxes, _, _ in detections.values()], np.float64, 4)),
        _joined([scores for _, scores, _ in detections.values()], np.float64),
    )
    return objects, found, num_images


def image_rows(image_ids: Sequence[int | str]) -> dict[int | str, int]:
    """Each image's place in the order that ranks equal scores."""
    order = sorted(image_ids) if all(isinstance(one, int) for one in image_ids) else list(image_ids)
    rows = {image_id: row for row, image_id in enumerate(order)}
    if len(rows) < len(order):
        twice = next(one for row, one in enumerate(order) if rows[one] != row)
        raise DetectionsError(f"image id {twice!r} occurs more than once among the labelled images")
    return rows


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic], columns: int = 0) -> NDArray[Any]:
    """The images' arrays in one, (N,) or (N, columns), also when there are no images."""
    shape = (-1, columns) if columns else (-1,)
    return (
        np.concatenate([np.zeros(0, dtype), *(np.asarray(part).ravel() for part in parts)])
        .astype(dtype)
        .reshape(shape)
    )


def _xywh(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def _check_detections(
    image_id: int | str,
    entry: FoundInImage,
    num_classes: int,
) -> None:
    boxes, scores, indices = entry
    if np.shape(boxes) != (len(scores), 4) or np.shape(indices) != (len(scores),):
        raise DetectionsError(
            f"detections of image {image_id!r} do not fit together: boxes {np.shape(boxes)}, "
            f"scores {np.shape(scores)}, classes {np.shape(indices)}"
        )
    if np.isnan(boxes).any() or np.isnan(scores).any():
        raise DetectionsError(
            f"detections of image {image_id!r} hold a NaN among their boxes or scores: the detector's weights "
            "are not finite, or the precision is too low for them"
        )
    if len(indices) and not 0 <= int(np.min(indices)) <= int(np.max(indices)) < num_classes:
        raise DetectionsError(
            f"detections of image {image_id!r} name class {int(np.max(indices))}, "
            f"known are 0 to {num_classes - 1}"
        )
