"""How a batch is divided over processes and micro-batches, so that the step stays the one of the whole batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from flexdetr.data.loader import Batch
from flexdetr.engine.distributed import Ranks
from flexdetr.model.outputs import Noise, Targets


class Step(NamedTuple):
    """What all ranks know of a step.

    Attributes:
        number: counted from 0 over the whole run.
        objects: in the whole step, at least 1; what its loss is divided by.
        images: in the whole step.
        fullest: objects of the fullest image of the step, from which the number of denoising groups follows.
        parts: micro-batches, the same number on every rank.
        stop: whether a rank was asked to stop.
        save: whether the first rank finds that it is time to save.
    """

    number: int
    objects: float
    images: int
    fullest: int
    parts: int
    stop: bool
    save: bool


def shared_step(batch: Batch, number: int, *, parts: int, stop: bool, save: bool, ranks: Ranks) -> Step:
    """Tell the other ranks of this one's share of a step, and hear of theirs; one small message."""
    fullest = max((len(labels) for labels in batch.targets.labels), default=0)
    rows = ranks.table([batch.targets.num_objects, fullest, len(batch), parts, stop, save])
    objects, fullests, images, wanted, stops, saves = (list(column) for column in zip(*rows, strict=True))
    return Step(
        number,
        max(1.0, sum(objects)),
        int(sum(images)),
        int(max(fullests)),
        # Norms that are synchronised meet once a micro-batch: no rank may have fewer than another.
        max(1, min(int(max(wanted)), int(min(images)))),
        any(stops),
        bool(saves[0]),
    )


def micro_batches(batch: Batch, step: Step, seed: int) -> Iterator[Batch]:
    """The step's parts of a rank's batch, as even as they can be, each with its images' own noise."""
    first = 0
    for part in range(step.parts):
        size = len(batch) // step.parts + (part < len(batch) % step.parts)
        cut = slice(first, first + size)
        first += size
        ids = batch.image_ids[cut]
        noise = Noise(step.fullest, [noise_seed(seed, step.number, image_id) for image_id in ids])
        shares = None if batch.targets.shares is None else batch.targets.shares[cut]
        targets = Targets(batch.targets.labels[cut], batch.targets.boxes[cut], ids, noise, shares)
        yield Batch(batch.images[cut], targets, batch.sizes[cut], ids)


def noise_seed(seed: int, step: int, image_id: int | str) -> int:
    """One number for an image in a step of a run."""
    return (seed % 2**32) << 96 | step << 32 | zlib.crc32(repr(image_id).encode())
