"""Which samples make which batch, and how a sample is made; all of it a function of seed, epoch and position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.config import DataConfig
from flexdetr.data.dataset import Record
from flexdetr.data.degraded import degraded
from flexdetr.data.kept import RecordImages
from flexdetr.data.mosaic import copy_blend, mixup, mosaic
from flexdetr.data.oriented import oriented
from flexdetr.data.sampling import draw, epoch_length, turns
from flexdetr.data.transforms import Sample, plain, strong
from flexdetr.data.user_transforms import UserTransforms
from flexdetr.model.outputs import Targets
from flexdetr.tasks import Samples

Phase = Literal["mosaic", "strong", "plain"]

# RT-DETR's multi-scale: 0.75 to 1.25 of the size in steps of a stride, the size itself three times as often.
_SCALES = (0.75, 1.25)
_STRIDE = 32
_TIMES_UNSCALED = 3
# Without a cache the partners of a mosaic are neighbours in the epoch's order, so that a batch decodes each
# only once.
_NEIGHBOURS = 8
# Separates the random streams that share a seed and an epoch.
_ORDER_STREAM, _SIZE_STREAM, _SAMPLE_STREAM = 0, 1, 2


@dataclass(frozen=True)
class Batch:
    """Images of one size with their objects.

    Attributes:
        images: (B, C, H, W) uint8; training batches lie channels-last in memory.
        targets: the objects, boxes cxcywh as fractions of the image as it is here.
        sizes: (B, 2) int64 (height, width) of the original images.
        image_ids: of the original images.
    """

    images: Tensor
    targets: Targets
    sizes: Tensor
    image_ids: list[int | str]

    def __len__(self) -> int:
        return len(self.image_ids)

    def pin_memory(self) -> Batch:
        """The same batch with its images in page-locked memory; torch's loader calls this."""
        return replace(self, images=self.images.pin_memory(), sizes=self.sizes.pin_memory())


@dataclass(frozen=True)
class BatchPlan:
    """What a worker must know to make a batch.

    Attributes:
        epoch: counted from 0.
        phase: the epoch's augmentation.
        size: (height, width) of the batch.
        indices: of the records.
        partners: for each of ``indices``, records to draw a mosaic's other tiles from; None draws from all.
        turns: for each of ``indices``, how often the epoch showed it before; empty if no image is repeated.
    """

    epoch: int
    phase: Phase
    size: tuple[int, int]
    indices: tuple[int, ...]
    partners: tuple[tuple[int, ...], ...] | None
    turns: tuple[int, ...] = ()

    def turn(self, slot: int) -> int:
        """How often the epoch showed the image of a place of the batch before."""
        return self.turns[slot] if self.turns else 0

    def partners_of(self, slot: int, count: int) -> Sequence[int]:
        """The records that the image of a place of the batch may be put together with, of ``count`` in all."""
        return range(count) if self.partners is None else self.partners[slot]


@dataclass(frozen=True)
class Planner:
    """Plans the batches of an epoch.

    Attributes:
        count: samples of an epoch: the training images, or more where some are repeated.
        batch_size: images of a step, over all ranks.
        image_size: (height, width) that multi-scale varies.
        seed: of the run.
        multi_scale: draw the size of each batch.
        neighbours: draw a mosaic's tiles from neighbours in the epoch's order, not from all images.
        rank: which part of each batch is planned.
        world_size: how many parts there are.
        factors: how often each image is shown in an epoch, on average; None shows each once.
    """

    count: int
    batch_size: int
    image_size: tuple[int, int]
    seed: int
    multi_scale: bool
    neighbours: bool
    rank: int = 0
    world_size: int = 1
    factors: NDArray[np.float64] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.factors is not None and epoch_length(self.factors) != self.count:
            raise ValueError(
                f"{self.count} samples of an epoch, but the factors give {epoch_length(self.factors)}"
            )

    def __len__(self) -> int:
        """Batches of an epoch; the last incomplete one is left out, unless it is the only one."""
        return max(1, self.count // self.batch_size)

    def epoch(self, epoch: int, phase: Phase) -> list[BatchPlan]:
        """The batches of an epoch for this rank, in order."""
        rng = np.random.default_rng([self.seed, epoch, _ORDER_STREAM])
        order = rng.permutation(self.count) if self.factors is None else draw(self.factors, rng)
        seen = None if self.factors is None else turns(order)
        plans = []
        for number in range(len(self)):
            positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
            positions = positions[positions < self.count]
            if len(positions) < self.world_size:  # every rank must have an image to work on
                positions = np.arange(self.world_size) % self.count
            mine = np.array_split(positions, self.world_size)[self.rank]
            plans.append(
                BatchPlan(
                    epoch,
                    phase,
                    self._size(epoch, number, phase),
                    tuple(order[mine].tolist()),
                    tuple(self._neighbours(order, int(place)) for place in mine) if self.neighbours else None,
                    () if seen is None else tuple(seen[mine].tolist()),
                )
            )
        return plans

    def _size(self, epoch: int, number: int, phase: Phase) -> tuple[int, int]:
        if not self.multi_scale or phase == "plain":
            return self.image_size
        choices = sizes_around(self.image_size)
        return choices[np.random.default_rng([self.seed, epoch, _SIZE_STREAM, number]).integers(len(choices))]

    def _neighbours(self, order: NDArray[np.int64], position: int) -> tuple[int, ...]:
        first = min(position // _NEIGHBOURS * _NEIGHBOURS, max(0, self.count - _NEIGHBOURS))
        return tuple(order[first : first + _NEIGHBOURS].tolist())


class BatchSample(NamedTuple):
    """A sample as it stands in a batch.

    Attributes:
        image: (H, W, C) uint8.
        labels: (N,) int64, head indices.
        boxes: (N, 4) float32, cxcywh as fractions.
        shares: (N,) float32, see ``Targets``; None where each label is all of the picture.
    """

    image: NDArray[np.uint8]
    labels: Tensor
    boxes: Tensor
    shares: Tensor | None = None


def assemble_batch(
    maker: Samples, plan: BatchPlan, *, forget: bool = False, observe: Callable[[int], None] | None = None
) -> Batch:
    """The planned batch of any task's samples.

    With ``forget`` the decoded images are dropped afterwards; ``observe`` is told the record that is worked on.
    """
    height, width = plan.size
    channels = maker.records[0].form.channels
    images = torch.empty((len(plan.indices), height, width, channels), dtype=torch.uint8)
    labels, boxes, shares = [], [], []
    for slot, index in enumerate(plan.indices):
        if observe is not None:
            observe(index)
        made = maker.make(plan, slot, index)
        images[slot].numpy()[...] = made.image
        labels.append(made.labels)
        boxes.append(made.boxes)
        if made.shares is not None:
            shares.append(made.shares)
    if forget:
        maker.images.kept.clear()
    records = [maker.records[index] for index in plan.indices]
    ids = [record.image_id for record in records]
    sizes = torch.tensor([[record.height, record.width] for record in records], dtype=torch.int64)
    targets = Targets(labels, boxes, list(ids), shares=shares or None)
    return Batch(images.permute(0, 3, 1, 2), targets, sizes, ids)


def sizes_around(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """The sizes of multi-scale training: the taller side in steps of 32, the other in proportion, also rounded to 32.

    Example:
        >>> [height for height, _ in sizes_around((320, 320))]
        [320, 320, 256, 288, 352, 384]
    """
    longest = max(image_size)
    low, high = (scale * longest / _STRIDE for scale in _SCALES)
    sizes = [image_size] * _TIMES_UNSCALED
    for steps in range(int(np.ceil(low)), int(high) + 1):
        scaled = tuple(max(1, round(side * steps / longest)) * _STRIDE for side in image_size)
        if scaled != image_size:
            sizes.append((scaled[0], scaled[1]))
    return sizes


class SampleMaker:
    """Makes training samples from records.

    ``image_size`` is the (height, width) of the training, which decides the size at which images are kept.

    Raises:
        ConfigError: if the user's transforms cannot be made.
    """

    def __init__(
        self, records: Sequence[Record], config: DataConfig, image_size: tuple[int, int], seed: int
    ) -> None:
        self.records, self.config, self.seed = records, config, seed
        self.transforms = None if config.transforms is None else UserTransforms(config.transforms)
        self.images = RecordImages(records, image_size)

    def make(self, plan: BatchPlan, slot: int, index: int) -> BatchSample:
        """See ``flexdetr.tasks.Samples``."""
        partners = plan.partners_of(slot, len(self.records))
        sample = self.sample(index, plan.epoch, plan.phase, plan.size, partners, plan.turn(slot))
        boxes = fractions(sample.boxes_xyxy, plan.size)
        return BatchSample(sample.image, torch.from_numpy(sample.labels), torch.from_numpy(boxes))

    def sample(
        self,
        index: int,
        epoch: int,
        phase: Phase,
        size: tuple[int, int],
        partners: Sequence[int],
        turn: int = 0,
    ) -> Sample:
        """One augmented sample of exactly (height, width) ``size``; the same for the same arguments, always."""
        place = [index, turn] if turn else [index]  # without repeats, runs of before stay what they were
        rng = np.random.default_rng([self.seed, epoch, _SAMPLE_STREAM, *place])
        if phase == "plain":
            return plain(self._source(index, rng), size, rng, self.config)
        if phase == "strong":
            return degraded(self._strong(index, size, rng), rng, self.config)
        return degraded(self._blended(index, size, rng, partners), rng, self.config)

    def _blended(
        self, index: int, size: tuple[int, int], rng: np.random.Generator, partners: Sequence[int]
    ) -> Sample:
        sample = self._mosaic_or_strong(index, size, rng, partners)
        if rng.random() < _share(self.config.mixup):
            other = partners[int(rng.integers(len(partners)))]
            return mixup(sample, self._mosaic_or_strong(other, size, rng, partners), rng)
        # No number is drawn where the option is off, so that runs of before stay what they were.
        if self.config.copy_blend and rng.random() < self.config.copy_blend:
            other = partners[int(rng.integers(len(partners)))]
            return copy_blend(sample, self._mosaic_or_strong(other, size, rng, partners), rng)
        return sample

    def _mosaic_or_strong(
        self, index: int, size: tuple[int, int], rng: np.random.Generator, partners: Sequence[int]
    ) -> Sample:
        if rng.random() >= _share(self.config.mosaic):
            return self._strong(index, size, rng)
        tiles = [index, *(partners[choice] for choice in rng.integers(len(partners), size=3).tolist())]
        return mosaic(
            [self._transformed(self._source(tile, rng, half=True), tile, rng) for tile in tiles],
            size,
            rng,
            self.config,
        )

    def _strong(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Sample:
        return strong(self._transformed(self._source(index, rng), index, rng), size, rng, self.config)

    def _transformed(self, sample: Sample, index: int, rng: np.random.Generator) -> Sample:
        """What the user's transforms make of a record's image, where there are any."""
        if self.transforms is None:
            return sample
        return self.transforms(sample, rng, str(self.records[index].path))

    def _source(self, index: int, rng: np.random.Generator, *, half: bool = False) -> Sample:
        """A record's image as it is kept, or half as large, with its boxes in these pixels; crowds are no targets."""
        record = self.records[index]
        image = self.images.get(index, half=half)
        scale = np.array(
            [image.shape[1] / record.width, image.shape[0] / record.height] * 2, dtype=np.float32
        )
        ordinary = ~record.iscrowd
        sample = Sample(image, record.boxes_xyxy[ordinary] * scale, record.labels[ordinary])
        return oriented(sample, rng, self.config)


def fractions(boxes_xyxy: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(N, 4) xyxy pixels of an image of (height, width) ``size`` as cxcywh fractions of it."""
    height, width = size
    centres, sides = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    scaled = np.concatenate([centres, sides], axis=1) / np.array([width, height] * 2)
    return np.asarray(scaled, dtype=np.float32)


def _share(probability: float | None) -> float:
    return 0.5 if probability is None else probability
