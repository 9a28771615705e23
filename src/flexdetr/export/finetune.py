"""Quantisation-aware fine-tuning: the deploy form learns to answer as before while its layers round to eight bits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexdetr.boxes import giou
from flexdetr.config import Config
from flexdetr.data.dataset import Record
from flexdetr.data.loader import TrainingLoader
from flexdetr.engine.device import choose_device
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm
from flexdetr.export.quantize import int8_layers
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Prediction

# The detector is trained already, and has to stay where it is.
RATE = 2e-5
BATCH = 8
_LARGEST_GRADIENT = 0.1
# The largest levels of eight bits: of weights, from -127; of inputs, from 0.
_WEIGHT_LEVEL, _INPUT_LEVEL = 127, 255
# Ranges follow the batches slowly: NNCF, which measures them again for the file, takes means as well.
_FOLLOW = 0.05
# Weights of the terms, as RT-DETR has them for boxes.
_BOX, _OVERLAP = 5.0, 2.0


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning gave.

    Attributes:
        form: the deploy form with the new weights, in float32.
        losses: mean distance from the float model's answers while rounding, by epoch.
        pictures: of the training split.
    """

    form: DeployForm
    losses: tuple[float, ...]
    pictures: int

    def describe(self) -> dict[str, Any]:
        """For ``metadata.json``."""
        losses = [round(loss, 5) for loss in self.losses]
        return {"epochs": len(losses), "pictures": self.pictures, "losses": losses}


class RoundedWeight(nn.Module):
    """A weight as int8 has it: 255 symmetric levels for each output channel. The gradient passes as if not rounded."""

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as weight."""
        largest = weight.detach().flatten(1).abs().amax(1)
        scale = (largest / _WEIGHT_LEVEL).clamp(min=torch.finfo(weight.dtype).tiny)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -_WEIGHT_LEVEL, _WEIGHT_LEVEL)


class RoundedInput:
    """A layer's input as int8 has it: 256 levels over the range that it had so far, zero among them.

    Hung on a layer with ``register_forward_pre_hook``. The gradient passes as if not rounded, inside the range.
    """

    def __init__(self) -> None:
        self.range: Tensor | None = None

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(x, ...) -> (rounded x, ...)."""
        x, *others = inputs
        seen = torch.stack(x.detach().aminmax())
        self.range = seen if self.range is None else self.range.lerp(seen, _FOLLOW)
        low, high = self.range[0].clamp(max=0), self.range[1].clamp(min=0)
        scale = ((high - low) / _INPUT_LEVEL).clamp(min=torch.finfo(x.dtype).tiny)
        zero = (-low / scale).round().clamp(0, _INPUT_LEVEL).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _INPUT_LEVEL), *others)


@contextmanager
def rounding(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Let layers of a model round their weights and inputs; afterwards the model is in float again."""
    parts = [model.get_submodule(path) for path in layers]
    hooks = [part.register_forward_pre_hook(RoundedInput()) for part in parts]
    for part in parts:
        parametrize.register_parametrization(part, "weight", RoundedWeight())
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in parts:
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=False)


def fine_tune(
    form: DeployForm,
    records: Sequence[Record],
    config: Config,
    epochs: int,
    *,
    rate: float = RATE,
    announce: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Teach the deploy form to round, with itself in float as the teacher; labels are not needed.

    The layers that int8 rounds do so (weights by channel, inputs by tensor), and all weights are trained so that the
    answers stay the teacher's: class scores of every token and of every query, and boxes. Both select the same
    queries, so that each answer has its counterpart.

    Args:
        form: the deploy form; it is left as it is.
        records: training pictures; they are flipped at random, and otherwise as prediction sees them.
        config: the detector's; the seed, the size and the loader's workers count.
        epochs: passes over the pictures.
        rate: the highest learning rate; it falls to zero along a cosine.
        announce: told how it goes.

    Raises:
        ExportError: if it diverges.
    """
    place = choose_device("auto")
    teacher = copy.deepcopy(form.detector).to(place)
    student = copy.deepcopy(form.detector).requires_grad_(True).to(place)
    loader = TrainingLoader(
        records,
        config,
        student.num_classes,
        batch_size=min(BATCH, len(records)),
        seed=config.seed,
        workers=config.data.workers,
        pin_memory=place.type == "cuda",
    )
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    steps, step = epochs * len(loader), 0
    losses: list[float] = []
    try:
        with rounding(student, int8_layers(form)):
            for epoch in range(epochs):
                total = torch.zeros((), device=place)
                for batch in loader.epoch(epoch, "plain"):
                    for group in optimizer.param_groups:
                        group["lr"] = rate * _factor(step, steps)
                    images = student.normalise(batch.images.to(place, non_blocking=True))
                    loss = distance(student, teacher, images, form.options.queries)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
                    nn.utils.clip_grad_norm_(student.parameters(), _LARGEST_GRADIENT)
                    optimizer.step()
                    total += loss.detach()
                    step += 1
                losses.append(float(total) / len(loader))
                if not math.isfinite(losses[-1]):
                    raise ExportError(
                        f"fine-tuning for int8 diverged in epoch {epoch + 1} (its loss is {losses[-1]}): export without"
                    )
                announce(f"fine-tuning, epoch {epoch + 1} of {epochs}: distance from float {losses[-1]:.4f}")
    finally:
        loader.close()
    student = student.cpu().requires_grad_(False).eval()
    return Tuned(DeployForm(student, form.options).eval(), tuple(losses), len(records))


def _factor(step: int, steps: int) -> float:
    """The learning rate's share: up over the first tenth, while Adam's averages are of few steps, then a cosine."""
    return min(1.0, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))


def distance(
    student: DetectionModel, teacher: DetectionModel, images: Tensor, queries: int | None = None
) -> Tensor:
    """How far a model's answers are from its teacher's, with the teacher's selection of queries; 0 if they agree.

    Both are in the deploy form, the images (B, 3, H, W) normalised; ``queries`` None selects the configured
    number.

    Returns:
        A number: Kullback-Leibler divergence of the class scores of tokens and queries, plus L1 and GIoU distance of
        the boxes by the teacher's score; all by the number of objects that the teacher sees.
    """
    with torch.no_grad(), _scores(teacher, None) as seen:
        expected = teacher(images, queries=queries).final
    with _scores(student, seen[0]) as own:
        answer = student(images, queries=queries).final
    confidence = expected.logits.sigmoid().amax(-1)
    objects = confidence.sum().clamp(min=1)
    scores = _divergence(own[0], seen[0]) + _divergence(answer.logits, expected.logits)
    return (scores + (_apart(answer, expected) * confidence).sum()) / objects


def _apart(answer: Prediction, expected: Prediction) -> Tensor:
    """(B, Q) distance of boxes."""
    off = (answer.boxes - expected.boxes).abs().sum(-1)
    return _BOX * off + _OVERLAP * (1 - giou(answer.boxes, expected.boxes))


def _divergence(logits: Tensor, expected: Tensor) -> Tensor:
    """The sum over all logits of what is lost by taking them for the expected ones."""
    target = expected.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return loss - F.binary_cross_entropy_with_logits(expected, target, reduction="sum")


@contextmanager
def _scores(model: DetectionModel, instead: Tensor | None) -> Iterator[list[Tensor]]:
    """Collects the scores that queries are selected by; with ``instead`` these decide in their place."""
    seen: list[Tensor] = []

    def watch(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        seen.append(output)
        return instead

    with model.head.get_submodule(model.head.selector).register_forward_hook(watch):
        yield seen
