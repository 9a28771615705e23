"""Mosaic, mixup and copy-blend: more objects per image give one-to-one matching more positives (DEIM, CVPR 2025).

DEIM, arXiv:2412.04234, section 3.1 "Dense O2O". Its mosaic pastes four images at half size and then warps the
whole; here each image is scaled and cropped into its quarter directly, so that nothing is resampled twice or
left black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexdetr.config import DataConfig
from flexdetr.data.transforms import Sample, Window, draw_colours, render

# The four tiles meet in the middle part of the canvas.
_CENTRE = (0.3, 0.7)
# Each tile is up to this much larger than the smallest that covers its quarter.
_ENLARGE = (1.0, 1.5)
# Of an object cut by a tile's edge, less than this is no target: its class could not be told.
_LEAST_SIDE = 2.0
_LEAST_VISIBLE = 0.1
_BLEND = (0.45, 0.55)
# Copy-blend: how many objects, from which area in pixels, with which rim relative to their sides.
_BLENDED_OBJECTS = 3
_BLENDED_AREA = 100.0
_RIM = (0.1, 0.25)


def mosaic(
    samples: Sequence[Sample], size: tuple[int, int], rng: np.random.Generator, config: DataConfig
) -> Sample:
    """Four samples around a random centre, each cropped and perhaps flipped, then distorted in colour as one.

    The samples are four; half the size of those for ``strong`` will do, since tiles are small. ``size`` is the
    (height, width) of the result.

    Returns:
        One sample; objects are clipped to their tiles.
    """
    height, width = size
    x, y = (round(side * rng.uniform(*_CENTRE)) for side in (width, height))
    canvas = np.empty((height, width, samples[0].image.shape[2]), dtype=np.uint8)
    boxes, labels = [], []
    quarters = [
        Window(0, 0, x, y),
        Window(x, 0, width, y),
        Window(0, y, x, height),
        Window(x, y, width, height),
    ]
    for sample, quarter in zip(samples, (quarters[place] for place in rng.permutation(4)), strict=True):
        tile = _tile(sample, quarter, size, rng, flip=rng.random() < config.flip)
        canvas[quarter.y0 : quarter.y1, quarter.x0 : quarter.x1] = tile.image
        boxes.append(tile.boxes_xyxy + np.array([quarter.x0, quarter.y0] * 2, dtype=np.float32))
        labels.append(tile.labels)
    colours = draw_colours(rng, config.colours)
    if colours is not None:
        canvas = colours.apply(canvas)
    return Sample(canvas, np.concatenate(boxes), np.concatenate(labels))


def _tile(
    sample: Sample, quarter: Window, size: tuple[int, int], rng: np.random.Generator, *, flip: bool
) -> Sample:
    """A part of the sample that fills a quarter, at the scale of the plain resize times the least that covers it."""
    height, width = sample.size
    scale = max(quarter.width / size[1], quarter.height / size[0]) * rng.uniform(*_ENLARGE)
    part_width = min(width, max(1, round(width * quarter.width / (size[1] * scale))))
    part_height = min(height, max(1, round(height * quarter.height / (size[0] * scale))))
    x0 = int(rng.integers(width - part_width + 1))
    y0 = int(rng.integers(height - part_height + 1))
    return render(
        sample,
        Window(x0, y0, x0 + part_width, y0 + part_height),
        (quarter.height, quarter.width),
        flip=flip,
        least_side=_LEAST_SIDE,
        least_visible=_LEAST_VISIBLE,
    )


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    """Both samples, of one size, laid over each other in about equal parts, with the objects of both."""
    share = round(256 * rng.uniform(*_BLEND))
    blend = first.image.astype(np.uint16) * np.uint16(share) + second.image * np.uint16(256 - share)
    return Sample(
        (blend >> 8).astype(np.uint8),
        np.concatenate([first.boxes_xyxy, second.boxes_xyxy]),
        np.concatenate([first.labels, second.labels]),
    )


def copy_blend(sample: Sample, source: Sample, rng: np.random.Generator) -> Sample:
    """Up to three objects of another sample blended in at random places, with a rim of their surroundings (DEIMv2).

    The objects of ``source``, of the same size as ``sample``, that have at least 100 pixels are taken.

    Returns:
        The sample with these objects' boxes, which are without the rim.
    """
    height, width = sample.size
    sides = source.boxes_xyxy[:, 2:] - source.boxes_xyxy[:, :2]
    large = np.flatnonzero(sides.prod(1) >= _BLENDED_AREA)
    image, boxes, labels = sample.image.copy(), [sample.boxes_xyxy], [sample.labels]
    for place in rng.permutation(large)[:_BLENDED_OBJECTS]:
        x0, y0, x1, y1 = source.boxes_xyxy[place]
        rim = rng.uniform(*_RIM) * sides[place]
        left, top = (int(max(0, edge)) for edge in np.floor((x0 - rim[0], y0 - rim[1])))
        right, bottom = int(min(width, np.ceil(x1 + rim[0]))), int(min(height, np.ceil(y1 + rim[1])))
        column = int(rng.integers(width - (right - left) + 1))
        row = int(rng.integers(height - (bottom - top) + 1))
        share = np.uint16(round(256 * rng.uniform(*_BLEND)))
        under = image[row : row + bottom - top, column : column + right - left]
        patch = source.image[top:bottom, left:right]
        blend = under.astype(np.uint16) * share + patch * (np.uint16(256) - share)
        under[...] = (blend >> 8).astype(np.uint8)
        moved = np.array([column - left, row - top] * 2, np.float32)
        boxes.append(source.boxes_xyxy[None, place] + moved)
        labels.append(source.labels[None, place])
    return Sample(image, np.concatenate(boxes), np.concatenate(labels))
