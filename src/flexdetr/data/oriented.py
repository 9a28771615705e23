"""An image as it may lie: upside down, or turned by quarters; for pictures that have no up and down."""

from __future__ import annotations

import numpy as np

from flexdetr.config import DataConfig
from flexdetr.data.transforms import Sample


def oriented(sample: Sample, rng: np.random.Generator, config: DataConfig) -> Sample:
    """The sample, perhaps turned by quarters and flipped vertically; boxes are exact.

    No number is drawn for an option that is off.
    """
    if config.quarter_turn and rng.random() < config.quarter_turn:
        sample = turn(sample, int(rng.integers(1, 4)))
    if config.vertical_flip and rng.random() < config.vertical_flip:
        sample = flip_vertically(sample)
    return sample


def turn(sample: Sample, quarters: int) -> Sample:
    """The sample turned counterclockwise by so many quarters."""
    image, boxes = sample.image, sample.boxes_xyxy
    for _ in range(quarters % 4):
        width = image.shape[1]
        image = np.rot90(image)
        x0, y0, x1, y1 = boxes.T
        boxes = np.stack([y0, width - x1, y1, width - x0], axis=1)
    return Sample(np.ascontiguousarray(image), boxes, sample.labels)


def flip_vertically(sample: Sample) -> Sample:
    """The sample upside down, mirrored."""
    height = sample.image.shape[0]
    boxes = sample.boxes_xyxy.copy()
    boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    return Sample(np.ascontiguousarray(sample.image[::-1]), boxes, sample.labels)
