"""What a camera may do to a picture: held askew, out of focus, with noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.config import DataConfig
from flexdetr.data.transforms import Sample, clip

_LEAST_SIDE = 1.0
# Of an object that is turned out of the picture, less than this share of its box is no target.
_LEAST_VISIBLE = 0.3
_BLUR = (0.5, 2.0)  # pixels
_NOISE = (2.0, 15.0)  # of 255


def degraded(sample: Sample, rng: np.random.Generator, config: DataConfig) -> Sample:
    """The sample, perhaps rotated, blurred and with noise.

    No number is drawn for an option that is off.
    """
    if config.rotate and rng.random() < config.rotate:
        sample = rotate(sample, rng.uniform(-config.rotate_degrees, config.rotate_degrees))
    if config.blur and rng.random() < config.blur:
        sample = Sample(blur(sample.image, rng.uniform(*_BLUR)), sample.boxes_xyxy, sample.labels)
    if config.noise and rng.random() < config.noise:
        noisy = add_noise(sample.image, rng.uniform(*_NOISE), rng)
        sample = Sample(noisy, sample.boxes_xyxy, sample.labels)
    return sample


def rotate(sample: Sample, degrees: float) -> Sample:
    """The sample turned counterclockwise about its centre; black where nothing comes from.

    The box of a turned object is not known from its box alone. It is taken for an ellipse that fills its box: the box
    around the turned corners would grow at every turn, and be too large for most objects.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as kernels

    pixels = kernels.rotate(_planes(sample.image), degrees, InterpolationMode.BILINEAR, fill=[0.0])
    height, width = sample.size
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    boxes = sample.boxes_xyxy.astype(np.float64)
    middle = np.array([width / 2, height / 2])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 - middle).T
    centres = np.stack([cosine * x + sine * y, cosine * y - sine * x], axis=1) + middle
    across, down = ((boxes[:, 2:] - boxes[:, :2]) / 2).T
    halves = np.stack(
        [np.hypot(across * cosine, down * sine), np.hypot(across * sine, down * cosine)], axis=1
    )
    turned, keep = clip(
        np.concatenate([centres - halves, centres + halves], axis=1),
        (0, 0, width, height),
        _LEAST_SIDE,
        _LEAST_VISIBLE,
    )
    return Sample(_rows(pixels), turned.astype(np.float32), sample.labels[keep])


def blur(image: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """(H, W, C) blurred by a Gaussian of this deviation in pixels."""
    from torchvision.transforms.v2 import functional as kernels

    side = 2 * math.ceil(2 * deviation) + 1
    if min(image.shape[:2]) <= side // 2:  # too small to be mirrored at its border
        return image
    return _rows(kernels.gaussian_blur(_planes(image), [side, side], [deviation, deviation]))


def add_noise(image: NDArray[np.uint8], deviation: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, C) with Gaussian noise of this deviation, in levels of 255."""
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(deviation)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _planes(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def _rows(planes: torch.Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(planes.permute(1, 2, 0).numpy())
