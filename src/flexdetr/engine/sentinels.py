"""What guards a step: numbers that are no longer finite, and memory that runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flexdetr.config_values import some_of
from flexdetr.data.loader import Batch
from flexdetr.engine.distributed import Ranks
from flexdetr.engine.state import trying_to_write
from flexdetr.loss.criterion import Losses
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.model.outputs import Output

_log = logging.getLogger(__name__)

FOLDER = "faults"
_SHOWN = 5  # names of terms or parameters in a message


class Fault(NamedTuple):
    """Something that was not finite.

    Attributes:
        reason: what, as part of a sentence.
        image_ids: of the micro-batch, or of the images that are known to be the cause.
    """

    reason: str
    image_ids: tuple[int | str, ...]


class MemoryExhaustedError(RuntimeError):
    """A step does not fit in memory, and cannot be divided further here.

    Attributes:
        parts: micro-batches that the step was divided into.
    """

    def __init__(self, message: str, parts: int = 1) -> None:
        super().__init__(message)
        self.parts = parts


class PartLoss(NamedTuple):
    """The loss of a micro-batch, without its graph and still on the device.

    Attributes:
        total: what ``backward`` was called on.
        terms: what it is the sum of, by name.
        image_ids: of the micro-batch.
        share: of the step's divisor; see ``flexdetr.loss.criterion.Losses``.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    image_ids: tuple[int | str, ...]
    share: Tensor | None = None


class StepLoss(NamedTuple):
    """What the host knows of a step.

    Attributes:
        norm: of the whole gradient, before it was clipped.
        total: this rank's share of the loss.
    """

    norm: float
    total: float


def read_step(norm: Tensor, parts: Sequence[PartLoss]) -> tuple[StepLoss, list[Fault]]:
    """Bring a step's numbers to the host, all in one transfer; terms follow only where a loss is not finite."""
    length, *totals = torch.stack([norm, *(part.total for part in parts)]).tolist()
    faults = []
    for total, part in zip(totals, parts, strict=True):
        if not math.isfinite(total):
            wrong = [name for name, value in part.terms.items() if not torch.isfinite(value)]
            faults.append(Fault(f"the loss is {total} ({_some(wrong, 'all terms')})", part.image_ids))
    return StepLoss(length, sum(totals)), faults


def failed_losses(output: Output) -> Losses:
    """A loss for a step that has failed already: backward runs as on the other ranks, and gives NaN to all of them.

    It reaches all answers, so that gradients come, and are sent to the other ranks, as they do where nothing failed.
    """
    some = (output.encoder, output.pre, output.pre_denoising)
    answers = [output.final, *output.aux, *output.denoising, *(one for one in some if one is not None)]
    total = torch.stack([one.logits.sum() + one.boxes.sum() for one in answers]).sum()
    return Losses(total * torch.nan, {})


def check_step(
    norm: float,
    faults: Sequence[Fault],
    *,
    model: nn.Module,
    batch: Batch,
    number: int,
    folder: Path,
    ranks: Ranks,
    overflow_is_normal: bool,
) -> None:
    """Stop a step whose gradient is not finite; all ranks come to the same end, since they have the same norm.

    Args:
        norm: of the whole gradient.
        faults: what this rank has seen.
        model: names the parameters where only their gradients are wrong.
        batch: this rank's share of the step, which is written to ``folder/faults``.
        number: of the step.
        folder: of the run.
        ranks: this process among those that train together.
        overflow_is_normal: fp16's loss scaling skips such a step by itself, unless a loss is wrong too.

    Raises:
        NonFiniteError: naming terms or parameters, images, and the file.
    """
    if math.isfinite(norm):
        return
    everyone = [fault for own in ranks.gathered(list(faults)) for fault in own]
    if not everyone:
        if overflow_is_normal:
            return
        wrong = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ]
        ids = [image_id for own in ranks.gathered(batch.image_ids) for image_id in own]
        everyone = [Fault(f"the gradient is {norm} ({_some(wrong, 'its norm')})", tuple(ids))]
    file = dump(batch, folder, number, ranks)
    reasons = list(dict.fromkeys(fault.reason for fault in everyone))
    image_ids = list(dict.fromkeys(image_id for fault in everyone for image_id in fault.image_ids))
    raise NonFiniteError(
        f"step {number}: {'; '.join(reasons)}; images {', '.join(map(repr, image_ids))}; the batch is in {file}",
        image_ids,
    )


def dump(batch: Batch, folder: Path, number: int, ranks: Ranks) -> Path:
    """Write a batch as it went into the model; ``torch.load`` reads it."""
    path = folder / FOLDER / f"step-{number}-rank-{ranks.rank}.pt"
    content = {
        "images": batch.images,
        "labels": batch.targets.labels,
        "boxes": batch.targets.boxes,
        "image_ids": batch.image_ids,
    }
    with trying_to_write(path, "the batch is not kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            torch.save(content, file)
    return path


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def smaller_parts(parts: int, images: int, *, waits_for_ranks: bool) -> int:
    """Into how many micro-batches a step goes that did not fit in memory as ``parts``.

    Args:
        parts: micro-batches so far.
        images: of this rank in the step.
        waits_for_ranks: norms are synchronised, so that this rank alone cannot begin the step again.

    Raises:
        MemoryExhaustedError: if a micro-batch is a single image already, or the ranks have to begin again together.
    """
    if parts >= images:
        raise MemoryExhaustedError(
            "out of memory with a single image at a time; use a smaller --image-size or a smaller model, or set "
            "data.multi_scale=false",
            parts,
        )
    if waits_for_ranks:
        raise MemoryExhaustedError(
            f"out of memory; the batch can go on in {2 * parts} micro-batches: train.accumulate={2 * parts}",
            parts,
        )
    _log.warning(
        "out of memory: the same batch now goes in %d micro-batches of %d images at most",
        2 * parts,
        -(-images // (2 * parts)),
    )
    return 2 * parts


def _some(names: Sequence[str], otherwise: str) -> str:
    return some_of(names, _SHOWN) if names else otherwise
