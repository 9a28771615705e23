"""Training samples of a classifier: crops, flips, colours and blends of whole pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.config import ConfigError, DataConfig
from flexdetr.data.batches import BatchPlan, BatchSample, Phase
from flexdetr.data.dataset import Record
from flexdetr.data.degraded import degraded
from flexdetr.data.kept import RecordImages
from flexdetr.data.transforms import Sample, Window, draw_colours, plain, render
from flexdetr.runtime.middle import middle

# RandomResizedCrop of GoogLeNet (arXiv 1409.4842), with a larger smallest share: few pictures of one's own are not
# ImageNet's million, and what they show fills them.
_AREA, _ASPECT = (0.35, 1.0), (3 / 4, 4 / 3)
# Beta distribution of a blend's share (mixup, arXiv 1710.09412).
_ALPHA = 0.2
_SAMPLE_STREAM = 3  # beside those of ``flexdetr.data.batches``
# Of boxes: what a detector's samples have, and these have not.
_OF_BOXES = (
    "mosaic",
    "zoom_out",
    "copy_blend",
    "tiles",
    "transforms",
    "quarter_turn",
    "vertical_flip",
)


class Blend(NamedTuple):
    """A sample with one class, or with two.

    ``image`` is (H, W, C) uint8; the shares of the labels, head indices, add to 1.
    """

    image: NDArray[np.uint8]
    labels: tuple[int, ...]
    shares: tuple[float, ...]


class ClassSamples:
    """Makes a classifier's training samples; the same for the same seed, epoch and picture, always.

    ``plain``: the middle, as in evaluation, perhaps flipped. ``strong``: a crop (``data.iou_crop`` is its probability),
    flip and colours. ``mosaic``: the same, blended with another sample (``data.mixup`` is the probability).

    Raises:
        ConfigError: if something is asked for that only detectors' samples have.
    """

    def __init__(
        self, records: Sequence[Record], config: DataConfig, image_size: tuple[int, int], seed: int
    ) -> None:
        if asked := next((name for name in _OF_BOXES if getattr(config, name)), None):
            raise ConfigError(
                f"data.{asked}={getattr(config, asked)} is for detectors; a classifier's samples have "
                "data.iou_crop, data.flip, data.photometric, data.rotate, data.blur, data.noise and data.mixup"
            )
        self.images = RecordImages(records, image_size)
        self.records: Sequence[Record] = records
        self.config, self.seed = config, seed

    def make(self, plan: BatchPlan, slot: int, index: int) -> BatchSample:
        """See ``flexdetr.tasks.Samples``."""
        partners = plan.partners_of(slot, len(self.records))
        sample = self.sample(index, plan.epoch, plan.phase, plan.size, partners, plan.turn(slot))
        shares = torch.tensor(sample.shares, dtype=torch.float32)
        return BatchSample(sample.image, torch.tensor(sample.labels), whole(len(sample.labels)), shares)

    def sample(
        self,
        index: int,
        epoch: int,
        phase: Phase,
        size: tuple[int, int],
        partners: Sequence[int],
        turn: int = 0,
    ) -> Blend:
        """One sample of exactly (height, width) ``size``."""
        rng = np.random.default_rng([self.seed, epoch, _SAMPLE_STREAM, index, turn])
        first = self._single(index, phase, size, rng)
        if phase != "mosaic" or not self.config.mixup:
            return first
        other = int(partners[int(rng.integers(len(partners)))])
        share = float(rng.beta(_ALPHA, _ALPHA)) if rng.random() < self.config.mixup else 1.0
        labels = (*first.labels, int(self.records[other].labels[0]))
        if share == 1.0:  # every sample of a run with blends has two labels: the loss counts labels
            return Blend(first.image, labels, (1.0, 0.0))
        second = self._single(other, phase, size, rng)
        mixed = first.image.astype(np.float32) * share + second.image.astype(np.float32) * (1 - share)
        return Blend(mixed.round().astype(np.uint8), labels, (share, 1 - share))

    def _single(self, index: int, phase: Phase, size: tuple[int, int], rng: np.random.Generator) -> Blend:
        image = self.images.get(index)
        height, width = image.shape[:2]
        labels = self.records[index].labels
        whole = np.array([[0, 0, width, height]], np.float32)
        sample = Sample(image, whole, labels)
        if phase == "plain":
            seen = Sample(middle(image), whole, labels)
            done = plain(seen, size, rng, self.config)
        else:
            window = Window(0, 0, width, height)
            if rng.random() < self.config.iou_crop:
                window = random_crop(width, height, rng)
            flip = bool(rng.random() < self.config.flip)
            colours = draw_colours(rng, self.config.colours)
            done = render(sample, window, size, flip=flip, colours=colours)
            done = degraded(done, rng, self.config)
        return Blend(done.image, (int(labels[0]),), (1.0,))


def whole(count: int) -> Tensor:
    """(count, 4) boxes around all of a picture, cxcywh as fractions."""
    return torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(count, 1)


def random_crop(width: int, height: int, rng: np.random.Generator) -> Window:
    """A window of a drawn share of the area and a drawn distortion of the aspect, inside of the picture."""
    area = rng.uniform(*_AREA)
    stretch = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    wide = min(width, max(1, round(width * math.sqrt(area * stretch))))
    high = min(height, max(1, round(height * math.sqrt(area / stretch))))
    x0, y0 = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    return Window(x0, y0, x0 + wide, y0 + high)
