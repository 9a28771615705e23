"""What is done to a training image: distortion, zoom-out, IoU crop, flip, resize; on uint8, at reduced size.

The order and the laws are those of RT-DETR's recipe, which takes them from torchvision's v2 transforms
(RandomPhotometricDistort, RandomZoomOut, RandomIoUCrop, SanitizeBoundingBoxes, RandomHorizontalFlip, Resize).
Here zoom-out and crop only choose a window of the image, so that the pixels are resampled once, as v2's
resize does it, at the size that the network sees: a zoom-out by 4 would otherwise fill and read 16 times the
pixels. Random numbers come from a generator that is handed in, never from global state.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from flexdetr.config import DataConfig
from flexdetr.runtime.overlaps import iou_matrix

# RandomIoUCrop: the least IoU that some object must have with the crop; 1 leaves the image as it is.
_CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_CROP_TRIALS = 40
_CROP_SIDES = (0.3, 1.0)
_CROP_ASPECTS = (0.5, 2.0)
_ZOOM_SIDES = (1.0, 4.0)
# RandomPhotometricDistort.
_BRIGHTNESS = (0.875, 1.125)
_CONTRAST = (0.5, 1.5)
_SATURATION = (0.5, 1.5)
_HUE = (-0.05, 0.05)
_LUMA = np.array([0.2989, 0.587, 0.114])
# SanitizeBoundingBoxes: smaller objects are no targets.
_SMALLEST_SIDE = 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its objects.

    Attributes:
        image: (h, w, C) uint8.
        boxes_xyxy: (N, 4) float32 pixels of ``image``.
        labels: (N,) int64 head indices.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


class Window(NamedTuple):
    """A rectangle in an image's pixels that may reach outside of it."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.y1 - self.y0


def plain(sample: Sample, size: tuple[int, int], rng: np.random.Generator, config: DataConfig) -> Sample:
    """The sample resized to exactly (height, width) ``size``, perhaps flipped."""
    height, width = sample.size
    return render(sample, Window(0, 0, width, height), size, flip=rng.random() < config.flip)


def strong(sample: Sample, size: tuple[int, int], rng: np.random.Generator, config: DataConfig) -> Sample:
    """The sample zoomed out, cropped, flipped, resized to (height, width) ``size``, and distorted in colour."""
    height, width = sample.size
    window = Window(0, 0, width, height)
    if rng.random() < config.zoom_out:
        window = zoom_out(width, height, rng)
    boxes, labels = sample.boxes_xyxy, sample.labels
    if len(labels) and rng.random() < config.iou_crop:
        window, keep = iou_crop(boxes, window, rng)
        boxes, labels = boxes[keep], labels[keep]
    flip = rng.random() < config.flip
    colours = draw_colours(rng, config.colours)
    return render(Sample(sample.image, boxes, labels), window, size, flip=flip, colours=colours)


def zoom_out(width: int, height: int, rng: np.random.Generator) -> Window:
    """The window of RandomZoomOut: a canvas of 1 to 4 times the sides, with the image anywhere in it."""
    factor = rng.uniform(*_ZOOM_SIDES)
    canvas_width, canvas_height = int(width * factor), int(height * factor)
    left = int((canvas_width - width) * rng.random())
    top = int((canvas_height - height) * rng.random())
    return Window(-left, -top, canvas_width - left, canvas_height - top)


def iou_crop(
    boxes_xyxy: NDArray[np.float32], window: Window, rng: np.random.Generator
) -> tuple[Window, NDArray[np.bool_]]:
    """The part of ``window`` that RandomIoUCrop keeps.

    ``boxes_xyxy`` (N, 4) are at least one object's, in the image's pixels.

    Returns:
        the crop, which holds the centre of some object and has at least a drawn IoU with it; and (N,) which
        objects have their centre in it. Now and then the whole window, with all objects.
    """
    everything = np.ones(len(boxes_xyxy), dtype=np.bool_)
    boxes = boxes_xyxy - np.array([window.x0, window.y0] * 2, dtype=np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while True:  # ends: one option in seven keeps everything
        overlap = _CROP_OVERLAPS[rng.integers(len(_CROP_OVERLAPS))]
        if overlap >= 1:
            return window, everything
        crops = _crop_candidates(window, rng)
        within = (crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])
        inside = np.asarray(within.all(axis=2), dtype=np.bool_)
        good = (np.where(inside, iou_matrix(crops, boxes), -1.0).max(axis=1) >= overlap) & inside.any(axis=1)
        if good.any():
            chosen = int(good.argmax())
            x0, y0, x1, y1 = (int(value) for value in crops[chosen])
            return Window(window.x0 + x0, window.y0 + y0, window.x0 + x1, window.y0 + y1), inside[chosen]


def _crop_candidates(window: Window, rng: np.random.Generator) -> NDArray[np.int64]:
    """(K, 4) xyxy crops relative to the window, of permitted aspect."""
    low, high = _CROP_SIDES
    sides = ((low + (high - low) * rng.random((_CROP_TRIALS, 2))) * (window.width, window.height)).astype(
        np.int64
    )
    corners = ((np.array([window.width, window.height]) - sides) * rng.random((_CROP_TRIALS, 2))).astype(
        np.int64
    )
    crops = np.concatenate([corners, corners + sides], axis=1)
    flat, tall = _CROP_ASPECTS
    fits = (sides > 0).all(axis=1) & (sides[:, 0] >= flat * sides[:, 1]) & (sides[:, 0] <= tall * sides[:, 1])
    return crops[fits] if fits.any() else np.array([[0, 0, window.width, window.height]], dtype=np.int64)


def render(
    sample: Sample,
    window: Window,
    size: tuple[int, int],
    *,
    flip: bool = False,
    colours: Colours | None = None,
    least_side: float = _SMALLEST_SIDE,
    least_visible: float = 0.0,
) -> Sample:
    """A window of the sample, resized to exactly ``size``; black where it reaches outside the image.

    Args:
        sample: image and objects.
        window: in the image's pixels; must share some of them.
        size: (height, width) of the result.
        flip: mirror left and right.
        colours: distortion of the image's own pixels (not of the black around them).
        least_side: objects with a shorter side, in pixels of the result, are dropped.
        least_visible: objects of which less than this share of the area is in the window are dropped.

    Returns:
        Image of (height, width) ``size``; boxes clipped to it.
    """
    height, width = sample.size
    seen = Window(max(window.x0, 0), max(window.y0, 0), min(window.x1, width), min(window.y1, height))
    x_scale, y_scale = size[1] / window.width, size[0] / window.height
    # The visible part lands on whole pixels; boxes follow it there, so that they stay aligned with the
    # content.
    x0, x1 = _whole(seen.x0 - window.x0, seen.x1 - window.x0, x_scale, size[1])
    y0, y1 = _whole(seen.y0 - window.y0, seen.y1 - window.y0, y_scale, size[0])
    pixels = resize(sample.image[seen.y0 : seen.y1, seen.x0 : seen.x1], (y1 - y0, x1 - x0))
    if flip:
        pixels = torch.flip(torch.from_numpy(pixels), (1,)).numpy()  # numpy's copy of a reversed view is slow
    if colours is not None:
        pixels = colours.apply(pixels)
    if pixels.shape[:2] != size:
        canvas = np.zeros((*size, pixels.shape[2]), dtype=np.uint8)
        left = size[1] - x1 if flip else x0
        canvas[y0:y1, left : left + x1 - x0] = pixels
        pixels = canvas
    scale = np.array([(x1 - x0) / seen.width, (y1 - y0) / seen.height] * 2)
    boxes = (sample.boxes_xyxy - np.array([seen.x0, seen.y0] * 2)) * scale + np.array([x0, y0] * 2)
    boxes, keep = clip(boxes, (x0, y0, x1, y1), least_side, least_visible)
    if flip:
        boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
    return Sample(pixels, boxes.astype(np.float32), sample.labels[keep])


def clip(
    boxes_xyxy: NDArray[np.float64],
    limits: tuple[int, int, int, int],
    least_side: float,
    least_visible: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes clipped to xyxy ``limits``, without those of which too little is left; and (N,) which are kept."""
    x0, y0, x1, y1 = limits
    clipped = np.stack(
        [
            np.clip(boxes_xyxy[:, 0], x0, x1),
            np.clip(boxes_xyxy[:, 1], y0, y1),
            np.clip(boxes_xyxy[:, 2], x0, x1),
            np.clip(boxes_xyxy[:, 3], y0, y1),
        ],
        axis=1,
    )
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    keep = (sides >= least_side).all(axis=1) & (sides.prod(axis=1) >= least_visible * whole)
    return clipped[keep], np.asarray(keep, dtype=np.bool_)


def _whole(first: float, last: float, scale: float, limit: int) -> tuple[int, int]:
    """An interval scaled to whole pixels, at least one of them, within 0 .. limit."""
    low = min(round(first * scale), limit - 1)
    return low, min(limit, max(low + 1, round(last * scale)))


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, C) uint8 resized to (height, width) ``size``, bilinear with antialiasing as Pillow does it.

    It is torchvision's v2 resize, bit for bit, without the five seconds that importing torchvision takes.
    """
    if image.shape[:2] == size:
        return image
    batch = torch.from_numpy(image)[None].permute(
        0, 3, 1, 2
    )  # as a batch it counts as channels-last, and stays it
    whole = _resizes_whole_numbers()
    resized = functional.interpolate(
        batch if whole else batch.float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    pixels = resized if whole else resized.round_().to(torch.uint8)
    return np.asarray(pixels[0].permute(1, 2, 0).numpy())


def _resizes_whole_numbers() -> bool:
    """Whether torch has a fast resize of uint8 for this processor."""
    arm = platform.machine() in ("aarch64", "arm64")
    return arm or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@dataclass(frozen=True, eq=False)
class Colours:
    """A photometric distortion; every part is linear in the colours but for one offset that depends on the image.

    Attributes:
        brightness: factor of all channels.
        contrast: factor of the distance from the image's mean luma.
        saturation: factor of the distance from each pixel's luma.
        hue: turn of the colour circle, in whole turns.
        contrast_first: contrast before saturation and hue, otherwise after them.
        permutation: channel ``i`` of the result is channel ``permutation[i]``.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True
    permutation: tuple[int, int, int] = (0, 1, 2)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The distorted image; the input is not changed.

        As v2's kernels, but for two liberties that make one matrix product of six passes: values are clipped
        to 0..255 once at the end, and hue turns the colours about the grey axis instead of through HSV.
        """
        matrix, offset = self.affine(image)
        rows = np.concatenate([matrix, offset[:, None]], axis=1).ravel().tolist()
        return np.asarray(
            Image.fromarray(image).convert("RGB", rows)
        )  # Pillow's pass is the fastest on uint8

    def affine(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The distortion of an image as ``colour -> matrix @ colour + offset``."""
        matrix, offset = np.eye(3) * self.brightness, np.zeros(3)
        mean = image[::4, ::4].reshape(-1, 3).mean(axis=0, dtype=np.float64)

        def contrast() -> None:
            nonlocal matrix, offset
            luma = float(_LUMA @ (matrix @ mean + offset))
            matrix, offset = matrix * self.contrast, offset * self.contrast + (1 - self.contrast) * luma

        if self.contrast_first:
            contrast()
        for step in (self._saturate(), self._turn()):
            matrix, offset = step @ matrix, step @ offset
        if not self.contrast_first:
            contrast()
        order = list(self.permutation)
        return matrix[order], offset[order]

    def _saturate(self) -> NDArray[np.float64]:
        return self.saturation * np.eye(3) + (1 - self.saturation) * np.tile(_LUMA, (3, 1))

    def _turn(self) -> NDArray[np.float64]:
        """Rotation about the grey axis (Rodrigues); a third of a turn maps red to green to blue."""
        cosine, sine = math.cos(math.tau * self.hue), math.sin(math.tau * self.hue) / math.sqrt(3)
        cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
        return cosine * np.eye(3) + (1 - cosine) / 3 + sine * cross


def draw_colours(rng: np.random.Generator, probability: float) -> Colours | None:
    """RandomPhotometricDistort's parameters: each of its parts occurs with the given probability; None for none."""
    occurs = rng.random(5) < probability
    if not occurs.any():
        return None
    return Colours(
        brightness=rng.uniform(*_BRIGHTNESS) if occurs[0] else 1.0,
        contrast=rng.uniform(*_CONTRAST) if occurs[1] else 1.0,
        saturation=rng.uniform(*_SATURATION) if occurs[2] else 1.0,
        hue=rng.uniform(*_HUE) if occurs[3] else 0.0,
        contrast_first=bool(rng.random() < 0.5),
        permutation=_permutation(rng) if occurs[4] else (0, 1, 2),
    )


def _permutation(rng: np.random.Generator) -> tuple[int, int, int]:
    first, second, third = rng.permutation(3).tolist()
    return first, second, third
