"""What happens to an image before the model and to its answer after it; numpy and Pillow only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.runtime.detections import Detections
from flexdetr.runtime.host import boxes_to_pixels, finish, sigmoid
from flexdetr.runtime.nms import Limits, corners, suppress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexdetr.classes import Classes

MAX_DETECTIONS = 300
# Scores of this family are calibrated low: from 0.4 on most detections of a trained model are right.
THRESHOLD = 0.4


class AnswerError(ValueError):
    """What a model answered cannot be read; the message says why."""


class Selection(NamedTuple):
    """The best (query, class) pairs of one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 pixels of the original image, clipped to it.
        scores: (N,) float32 in [0, 1].
        indices: (N,) int64 indices of the head's classes.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    indices: NDArray[np.int64]


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image to exactly the model's input size (antialiased bilinear, aspect ratio not kept).

    Args:
        image: (H, W, C) uint8, C the model's channels, as ``data.images.pixels`` gives it.
        size: (height, width) of the model's input in pixels.

    Returns:
        (height, width, C) uint8; the image itself where it has this size.

    Raises:
        ValueError: if the image is not (H, W, C) uint8, or is empty.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"an image must be a (height, width, channels) uint8 array, got shape {image.shape} of {image.dtype}"
        )
    return resize_planes(image, (size[1], size[0]))


def resize_planes(
    image: NDArray[np.uint8], size: tuple[int, int], reducing_gap: float | None = None
) -> NDArray[np.uint8]:
    """(H, W, C) uint8 at (width, height) ``size``, each channel for itself, as Pillow's ``resize`` does colours."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    how = Image.Resampling.BILINEAR
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, how, reducing_gap=reducing_gap))
    planes = (np.ascontiguousarray(plane) for plane in np.moveaxis(image, 2, 0))
    resized = [
        np.asarray(Image.fromarray(one).resize(size, how, reducing_gap=reducing_gap)) for one in planes
    ]
    return np.stack(resized, axis=2)


def prepare(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image as ``resize`` does, and put its colours first, as PyTorch has them.

    ``image`` is (H, W, C) uint8, ``size`` the (height, width) of the model's input in pixels.

    Returns:
        (C, height, width) uint8.

    Raises:
        ValueError: if the image is not (H, W, C) uint8, or is empty.
    """
    return np.ascontiguousarray(resize(image, size).transpose(2, 0, 1))


def select(
    logits: NDArray[np.floating],
    boxes: NDArray[np.floating],
    size: tuple[int, int],
    top: int = MAX_DETECTIONS,
    limits: Limits | None = None,
) -> Selection:
    """RT-DETR's post-processing (arXiv 2304.08069; no NMS): the top (query, class) pairs by sigmoid score.

    A query may appear more than once, with different classes. Equal scores keep the order query by query,
    class by class. Boxes are clipped to the image, which the official post-processor leaves to the caller.

    Args:
        logits: (Q, C) class logits.
        boxes: (Q, 4) cxcywh, fractions of the image.
        size: (height, width) of the original image in pixels.
        top: how many pairs to keep at most.
        limits: of a dense head, whose overlapping boxes are suppressed; None for a head without suppression.

    Raises:
        AnswerError: if shapes do not fit, or there is a NaN among the logits or boxes.
        ValueError: if ``top`` is below 1.
    """
    if logits.ndim != 2 or boxes.shape != (len(logits), 4):
        raise AnswerError(
            f"expected logits (Q, C) and boxes (Q, 4), got {tuple(logits.shape)} and {tuple(boxes.shape)}"
        )
    if top < 1:
        raise ValueError(f"at least one detection must be kept, got top={top}")
    if np.isnan(logits).any() or np.isnan(boxes).any():
        raise AnswerError("the model answered NaN: its weights, its export or its precision are at fault")
    if limits is not None:
        return Selection(*finish_dense(logits, boxes, size[0], size[1], limits, top))
    return Selection(*finish(logits, boxes, size[0], size[1], top))


def finish_dense(
    logits: NDArray[np.floating],
    boxes: NDArray[np.floating],
    height: int,
    width: int,
    limits: Limits,
    top: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """A dense head's answer for one picture.

    ``logits`` (N, C) are those of every cell, ``boxes`` (N, 4) cxcywh fractions of the picture, height and
    width its pixels. At most ``top`` detections are kept, and never more than the limits allow.

    Returns:
        Boxes xyxy in pixels (K, 4), clipped to the picture, scores (K,) and labels (K,), best first.
    """
    scores = sigmoid(logits.astype(np.float32, copy=False))
    limits = limits._replace(max_detections=min(top, limits.max_detections))
    box, label = suppress(corners(boxes), scores, limits)
    return boxes_to_pixels(boxes[box], height, width), scores[box, label], label


def decode(
    logits: NDArray[np.floating],
    boxes: NDArray[np.floating],
    size: tuple[int, int],
    classes: Classes,
    threshold: float | Sequence[float] | NDArray[np.floating] = 0.0,
    top: int = MAX_DETECTIONS,
    *,
    image_id: int | str | None = None,
    limits: Limits | None = None,
) -> Detections:
    """Turn a model's raw answer for one image into Detections.

    Args:
        logits: (Q, C) class logits.
        boxes: (Q, 4) cxcywh, fractions of the image.
        size: (height, width) of the original image in pixels.
        classes: the C classes of the head, with the data set's ids.
        threshold: detections of a lower score are dropped; one number, or one for each class.
        top: how many (query, class) pairs to keep at most, before the threshold.
        image_id: travels into the result.
        limits: see ``select``.

    Raises:
        AnswerError: if shapes do not fit, or there is a NaN among the logits or boxes.
    """
    if logits.shape[-1] != len(classes):
        raise AnswerError(f"the model answers {logits.shape[-1]} classes, but {len(classes)} names are known")
    return label(select(logits, boxes, size, top, limits), size, classes, threshold, image_id=image_id)


def label(
    selection: Selection,
    size: tuple[int, int],
    classes: Classes,
    threshold: float | Sequence[float] | NDArray[np.floating] = 0.0,
    *,
    image_id: int | str | None = None,
) -> Detections:
    """Give already selected boxes (for example by an artifact's own graph) the data set's ids and names.

    Args:
        selection: boxes in pixels, scores and head indices.
        size: (height, width) of the original image in pixels.
        classes: the classes of the head, with the data set's ids.
        threshold: detections of a lower score are dropped; one number, or one for each class.
        image_id: travels into the result.

    Raises:
        AnswerError: if a head index has no class.
        ValueError: if there is not one threshold for each class.
    """
    thresholds = np.asarray(threshold, np.float32)
    if thresholds.ndim and thresholds.shape != (len(classes),):
        raise ValueError(f"{thresholds.size} thresholds for {len(classes)} classes: give one, or one each")
    indices = selection.indices
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(classes):
        outside = int(indices.min()) if indices.min() < 0 else int(indices.max())
        raise AnswerError(f"class index {outside} is outside the {len(classes)} known classes")
    kept = selection.scores >= (thresholds[indices] if thresholds.ndim else thresholds)
    kept &= selection.scores > 0  # graphs that suppress boxes fill up with nothing, to answer a fixed number
    indices = indices[kept]
    return Detections(
        selection.boxes_xyxy[kept],
        selection.scores[kept],
        np.asarray(classes.ids, np.int64)[indices],
        [classes.names[i] for i in indices],
        indices,
        image_id=image_id,
        size=size,
    )
