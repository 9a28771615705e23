"""The trained network that teaches a run's detector: found, checked against the run, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError, build, nearest
from flexdetr.data.batches import sizes_around
from flexdetr.engine.checkpoint import StartingDetector, start
from flexdetr.engine.state import random_state_kept
from flexdetr.loss.distillation import AnswerTeaching, ClassTeaching, FeatureTeaching
from flexdetr.model.backbones import BACKBONES
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.outputs import Prediction
from flexdetr.presets import PRESETS
from flexdetr.tasks import TASKS
from flexdetr.weights.ancestry import with_ancestor
from flexdetr.weights.hub import SCHEME
from flexdetr.weights.loading import Loaded, load_any
from flexdetr.weights.store import Metadata
from flexdetr.weights.trained import TrainedParts

_FILES = (".safetensors", ".pth", ".pt", ".pdparams", ".bin")
_ROLE = "teacher"
# What stands behind a backbone that teaches, and is not looked at: as little as can be built.
_REST: dict[str, Any] = {
    "encoder": {"strides": [32], "width": 32, "intra": "none"},
    "head": {"width": 32, "layers": 1, "ffn": 32},
}


class Teacher:
    """A frozen network with what a run has to know of it.

    Args:
        starting: a detector; where it teaches features, all but its backbone is random and not used.
        answers: whether it is a detector that teaches its answers.
        device: where it computes.
    """

    def __init__(self, starting: StartingDetector, *, answers: bool, device: torch.device) -> None:
        self.starting, self.answers = starting, answers
        self.model: DetectionModel = fuse(starting.model.eval()).to(device)

    @property
    def origin(self) -> dict[str, Any]:
        """What checkpoints say of it, as an entry of their provenance."""
        nearest_of = self.starting.metadata.provenance[0]
        return {**nearest_of, "source": f"teacher: {nearest_of.get('source', '?')}", "role": _ROLE}

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, T, h, w) of the backbone's coarsest level."""
        return self.model.backbone(self.model.normalise(images))[-1]

    def predictions(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) uint8 RGB -> the detector's answer."""
        return self.model(self.model.normalise(images)).final


def find_teacher(name: str, device: torch.device) -> Teacher:
    """A teacher by its name.

    Args:
        name: a checkpoint file (a detector's, which teaches its answers, or a backbone's, which teaches its features),
            a preset with published weights, or a backbone with published weights.
        device: where it computes.

    Raises:
        ConfigError: if nothing is called so.
        WeightsError: if its weights cannot be had or used.
    """
    with random_state_kept(), torch.inference_mode(False):
        if name in BACKBONES or name.startswith("timm/"):
            return _backbone({"name": name}, "backbone", device)
        if name in PRESETS or name.startswith(SCHEME) or name.endswith(_FILES) or Path(name).exists():
            loaded = load_any(name)
            if not loaded.is_backbone:
                return _detector(loaded, device)
            return _backbone(loaded.config.backbone.model_dump(mode="json"), name, device)
    known = [*PRESETS, *BACKBONES]
    raise ConfigError(
        f"distill.teacher: {nearest(name, known, 'teacher')} It is a preset, a backbone, timm/NAME, or a file"
    )


def _detector(loaded: Loaded, device: torch.device) -> Teacher:
    model, parts = loaded.build(), TrainedParts()
    starting = StartingDetector(model, loaded.config, loaded.classes, with_ancestor(loaded), parts)
    return Teacher(starting, answers=True, device=device)


def _backbone(section: Mapping[str, Any], weights: str, device: torch.device) -> Teacher:
    # Freezing and rates are of a backbone that learns.
    kept = {key: section[key] for key in ("name", "options") if key in section}
    config = build({"model": section["name"], "backbone": kept, "weights": weights, **_REST})
    return Teacher(start(config, Classes(("object",), (0,))), answers=False, device=device)


def make_teaching(
    config: Config, classes: Classes, model: DetectionModel, teacher: Teacher
) -> FeatureTeaching | AnswerTeaching | ClassTeaching:
    """What a teacher adds to the training of a detector or a classifier.

    Raises:
        ConfigError: if the teacher does not fit the run.
    """
    distill = config.distill
    if teacher.model.channels != model.channels:
        raise ConfigError(
            f"distill.teacher={distill.teacher} sees pictures of {teacher.model.channels} channels, and data.channels "
            f"is {model.channels}: take a detector as teacher that was trained on these"
        )
    if not teacher.answers:
        if distill.weight is not None and model.head.limits is not None:
            raise ConfigError(
                f"distill.weight is for heads with queries: the losses of head={config.head.name} are divided by what "
                "it predicts; leave it out, and distill.share sets the teacher's share"
            )
        _try_sizes(config, teacher)
        width = model.encoder.channels[-1]
        return FeatureTeaching(
            teacher.features,
            width,
            teacher.model.backbone.channels[-1],
            share=distill.share,
            weight=distill.weight,
        )
    starting = teacher.starting
    _check_task(config, starting.config)
    if starting.config.image_size != config.image_size:
        theirs, ours = ("x".join(map(str, one.image_size)) for one in (starting.config, config))
        raise ConfigError(
            f"distill.teacher={distill.teacher} sees images of {theirs}, and this run's are {ours}: train with "
            f"--image-size {theirs}, or take a teacher that was trained at {ours}"
        )
    order = _order(classes, starting.classes, str(distill.teacher))
    weight = 1.0 if distill.weight is None else distill.weight
    if not model.head.selector:  # its answer is one for the whole picture
        return ClassTeaching(teacher.predictions, order, distill.temperature, weight)
    return AnswerTeaching(teacher.predictions, order, config.loss, weight)


def _check_task(config: Config, theirs: Config) -> None:
    """Refuse a teacher whose answers are of another kind."""
    if theirs.task != config.task:
        ours, other = (TASKS[one.task].noun for one in (config, theirs))
        raise ConfigError(
            f"distill.teacher={config.distill.teacher} is a {other}, and {config.model} a {ours}: take a {ours} of "
            "the same classes, which teaches its answers, or a backbone, which teaches its features"
        )


def _order(ours: Classes, theirs: Classes, name: str) -> list[int]:
    """The teacher's index of each of our classes."""
    missing = [each for each in ours.names if each not in theirs.names]
    more = [each for each in theirs.names if each not in ours.names]
    if missing or more:
        what = [f"it does not know {', '.join(missing)}"] if missing else []
        what += [f"it has also {', '.join(more[:5])}{' ...' if len(more) > 5 else ''}"] if more else []
        raise ConfigError(
            f"distill.teacher={name} has other classes than the data ({'; '.join(what)}): train a teacher on this "
            "data, or take a backbone, which teaches its features"
        )
    return [theirs.names.index(each) for each in ours.names]


def _try_sizes(config: Config, teacher: Teacher) -> None:
    """Refuse a network that does not take the run's images."""
    sizes = sizes_around(config.image_size) if config.data.multi_scale else [config.image_size]
    device, channels = next(teacher.model.parameters()).device, teacher.model.channels
    for height, width in (config.image_size, min(sizes), max(sizes)):
        try:
            with torch.no_grad():
                teacher.features(torch.zeros(1, channels, height, width, dtype=torch.uint8, device=device))
        except (RuntimeError, ValueError, AssertionError) as error:
            more = "; set data.multi_scale=false" if (height, width) != config.image_size else ""
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"distill.teacher={config.distill.teacher} does not take images of {height}x{width}{more} ({reason})"
            ) from error


def with_absolute_teacher(config: Config) -> Config:
    """The configuration with a teacher's file as an absolute path, so that a run goes on from any folder."""
    name = config.distill.teacher
    if name is None or name in PRESETS or name in BACKBONES or not Path(name).exists():
        return config
    return config.having(distill={"teacher": str(Path(name).resolve())})


def with_teacher(metadata: Metadata, teacher: Teacher) -> Metadata:
    """Metadata of checkpoints that name their teacher, once, behind the weights' own ancestors."""
    origin = teacher.origin
    others = [row for row in metadata.provenance if row != origin]
    return replace(metadata, provenance=[*others, origin])
