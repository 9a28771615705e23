"""What a run trains beside its detector: it is in the resumable state, and in no checkpoint and no exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError
from flexdetr.engine.distributed import Ranks
from flexdetr.engine.steps import Step
from flexdetr.engine.teacher import Teacher, make_teaching
from flexdetr.loss.companion import Companion, Share
from flexdetr.loss.criterion import Losses
from flexdetr.loss.dense_auxiliary import DenseAuxiliary
from flexdetr.loss.distillation import FeatureTeaching
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Observed, Targets


class Companions(nn.Module):
    """The companions of a run; there may be none.

    Args:
        parts: by name.
        notes: what is said of them before the first step.
    """

    def __init__(self, parts: Mapping[str, nn.Module], notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.notes = tuple(notes)
        self.parts = nn.ModuleDict(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def begin(self) -> None:
        """A step begins, or begins again."""
        for part in self._each():
            part.begin()

    def forward(self, seen: Observed, images: Tensor, targets: Targets, step: Step) -> list[Losses]:
        """What each adds to the loss of a micro-batch; see ``Companion``."""
        share = Share(step.objects, step.images)
        return [part(seen, images, targets, share) for part in self._each()]

    def settle(self, ranks: Ranks) -> None:
        """A step is done: what companions keep follows from all processes' micro-batches."""
        for part in self._each():
            total = part.collected()
            ranks.add(total)
            with torch.no_grad():
                part.settle(total)

    def numbers(self) -> dict[str, float]:
        """What is worth a column in a run's table beside the losses. It waits for the device."""
        found = self.parts["teacher"] if "teacher" in self.parts else None  # noqa: SIM401 - ModuleDict has no get
        if not isinstance(found, FeatureTeaching):
            return {}
        return {"distill_weight": float(found.strength)}

    def _each(self) -> list[Companion]:
        return [cast("Companion", part) for part in self.parts.values()]


def add_losses(losses: Losses, others: list[Losses]) -> Losses:
    """The loss of a micro-batch with what companions add."""
    total, terms = losses.total, dict(losses.terms)
    for other in others:
        total = total + other.total
        terms |= other.terms
    return losses._replace(total=total, terms=terms)


def build_companions(
    config: Config, model: DetectionModel, classes: Classes, teacher: Teacher | None = None
) -> Companions:
    """The companions that a configuration asks for.

    The teacher, which ``config.distill`` names, is on the model's device.

    Raises:
        ConfigError: if one does not fit.
    """
    if not model.head.selector and config.loss.dense_auxiliary:
        raise ConfigError(
            f"loss.dense_auxiliary is for detectors, and head={config.head.name} is not one; leave it out"
        )
    parts: dict[str, nn.Module] = {}
    notes = []
    if config.loss.dense_auxiliary:
        if model.head.limits is not None:
            raise ConfigError(
                f"loss.dense_auxiliary trains a dense head beside one with queries, and head={config.head.name} is "
                "dense itself; leave it out"
            )
        parts["dense_auxiliary"] = DenseAuxiliary(
            model.encoder.channels, model.encoder.strides, model.num_classes, config.loss.dense_weight
        )
        notes.append("a dense head trains beside the detector and is thrown away (loss.dense_auxiliary)")
    if teacher is not None:
        parts["teacher"] = make_teaching(config, classes, model, teacher)
        what = "its answers" if teacher.answers else "its features"
        if not teacher.answers and config.distill.weight is None:
            what += f", with {config.distill.share:.0%} of the gradient at the encoder's deepest level"
        licence = teacher.origin.get("licence", "unknown")
        notes.append(f"teacher: {config.distill.teacher} (licence {licence}) teaches {what}")
    return Companions(parts, notes)
