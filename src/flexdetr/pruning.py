"""Structured pruning of a trained detector: whole channels go until it is fast enough, then it is fine-tuned."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch

from flexdetr.api import Detector
from flexdetr.config import Config, ConfigError, DistillConfig, TrainConfig, build, merge
from flexdetr.data.check import read_for_training
from flexdetr.data.images import pixels
from flexdetr.engine import fit
from flexdetr.engine.checkpoint import StartingDetector
from flexdetr.engine.evaluate import evaluate_split
from flexdetr.export import latency
from flexdetr.export.converted import convert
from flexdetr.export.writing import ExportSource
from flexdetr.files import write_whole
from flexdetr.frozen import FrozenMapping
from flexdetr.metrics.coco_map import Metrics
from flexdetr.model.bundles import EXACT, Bundle, deviation, find_bundles, remove_channels
from flexdetr.model.detector import SECTIONS, DetectionModel
from flexdetr.model.fuse import deploy_form
from flexdetr.model.pruned import differing
from flexdetr.model.size import measure_module
from flexdetr.runtime.artifact import ArtifactError, is_artifact
from flexdetr.runtime.process import prepare
from flexdetr.weights.trained import TrainedParts

_log = logging.getLogger(__name__)

FILE: Final = "pruning.json"
EPOCHS: Final = 10
# Shares that are tried are so many steps of this: what is left of every bundle is a quarter at least.
_MOST, _STEPS = 0.75, 16
_PROVED: Final = 2  # pictures


class PruneError(ValueError):
    """A detector that cannot be pruned as asked; the message says why."""


@dataclass(frozen=True)
class Stage:
    """A detector on the way.

    Attributes:
        name: "whole", "pruned" or "fine-tuned".
        milliseconds: median of resizing and network on OpenVINO.
        params: parameters of the deploy form.
        gflops: of the deploy form, for one image.
        ap: on the validation split, in float32.
    """

    name: str
    milliseconds: float
    params: int
    gflops: float
    ap: float


@dataclass(frozen=True)
class Pruned:
    """What pruning gave.

    Attributes:
        detector: pruned and fine-tuned, with the best weights of its run.
        run: the fine-tuning.
        target_ms: what was asked for.
        share: of the channels of each bundle that went, about.
        deviation: proof of the cut: how far, relative to the largest value, the pruned network's levels are from
            those of the whole network in which nobody reads the channels that are gone; before the fine-tuning, on
            validation pictures, in float64.
        stages: before, after the cut, and after the fine-tuning.
        how: what the milliseconds were measured with.
    """

    detector: Detector
    run: fit.Run
    target_ms: float
    share: float
    deviation: float
    stages: tuple[Stage, ...]
    how: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "target_ms": self.target_ms,
            "share": self.share,
            "deviation": self.deviation,
            "measured": self.how,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "best": str(self.run.best),
        }


class _Choice(NamedTuple):
    share: float
    model: DetectionModel
    milliseconds: float


def prune(
    detector: Detector | str | Path,
    data: str | Path,
    *,
    out: str | Path,
    target_ms: float | None = None,
    target_share: float | None = None,
    epochs: int = EPOCHS,
    precision: latency.Computed = "fp32",
    threads: int = 0,
    quiet: bool = False,
    announce: Callable[[str], None] = _log.info,
    **changes: Any,  # noqa: ANN401 - keys of Config
) -> Pruned:
    """Take channels away from a trained detector until OpenVINO is fast enough, then fine-tune it in a run of its own.

    The same share goes of all channels that can go (see ``flexdetr.model.bundles``), the smallest that reaches the
    target, and in each bundle the least important ones. Head and widths of the encoder's levels stay as they are.

    Args:
        detector: the detector, which stays as it is, or its checkpoint.
        data: folder (or a file inside it) in COCO, VOC or YOLO format, with the detector's classes.
        out: the folder of the fine-tuning's run; ``pruning.json`` comes beside its files.
        target_ms: milliseconds for resizing and network of one picture.
        target_share: the same as a share of what the detector takes now, in (0, 1).
        epochs: of the fine-tuning.
        precision: what is measured in: "fp32", "bf16" (on CPUs that have it) or "int8".
        threads: of the CPU; 0 leaves them to OpenVINO.
        quiet: show no progress.
        announce: takes a sentence about each step.
        **changes: further keys of the fine-tuning's configuration, like ``batch_size=4`` or ``data={"mosaic": 0.0}``.

    Raises:
        PruneError: if the target is no less than what the detector takes now, or less than what can be reached.
        ConfigError: if a value is wrong, or ``out`` holds a run.
        DataError: if the data cannot be used.
        WeightsError: if the file is no detector's checkpoint.
        DriftError: if the result on OpenVINO does not find what PyTorch finds.
        ModuleNotFoundError: if torch-pruning is not installed (``flexdetr[prune]``).
    """
    _check(target_ms, target_share, epochs, threads, precision)
    fit.check_free(Path(out))
    whole = detector if isinstance(detector, Detector) else open_detector(detector)
    if whole.config.task != "detect":
        raise PruneError(f"{whole.config.model} is not a detector, and only detectors can be pruned")
    config = _fine_tuning(whole.config, epochs, changes)
    dataset = read_for_training(data, config)
    val = dataset.with_classes(whole.classes).split("val")
    # On the CPU, where it is measured; the caller's model may be anywhere.
    model = ExportSource.of(whole).apart().model
    bundles = find_bundles(model)
    if not bundles:
        raise PruneError(f"{whole.config.model}: no channels were found that can be taken away")
    clock = _Clock(model, config, str(data), precision, threads)
    target = cast("float", target_ms) if target_share is None else target_share * clock.whole_ms
    announce(
        f"{clock.whole_ms:.1f} ms now, {target:.1f} ms wanted; {len(bundles)} bundles of channels can be narrowed"
    )
    choice = _choose(model, bundles, target, clock, announce)
    planes = [prepare(pixels(record.path, config.data.form), config.image_size) for record in val[:_PROVED]]
    proof = _proven(model, bundles, choice.share, torch.from_numpy(np.stack(planes)))
    widths = {**whole.config.pruned, **differing(choice.model, model)}
    config = config.model_copy(update={"pruned": FrozenMapping(widths)})
    start = StartingDetector(
        choice.model,
        config,
        whole.classes,
        dataclasses.replace(whole.metadata, config=config.model_dump(mode="json"), thresholds={}),
        TrainedParts.whole(choice.model),
        notes=(f"pruned: {choice.share:.0%} of the channels of {len(bundles)} bundles went",),
    )
    score = partial(_ap, data=data, classes=whole.classes, config=config)
    stages = [
        _stage("whole", model, clock.whole_ms, score, config),
        _stage("pruned", choice.model, choice.milliseconds, score, config),
    ]
    run = fit.train(data, config, out=out, starting=start, quiet=quiet, dataset=dataset)
    module = whole._module  # a backbone that only the caller has
    part = config.backbone.name if module is None else copy.deepcopy(module)
    tuned = Detector.from_checkpoint(run.best, backbone=part)
    stages.append(_stage("fine-tuned", tuned.model, choice.milliseconds, score, config))
    convert(ExportSource.of(tuned), (), precision="fp32")
    pruned = Pruned(tuned, run, target, choice.share, proof, tuple(stages), clock.how)
    write_whole(run.folder / FILE, json.dumps(pruned.to_json(), indent=1))
    return pruned


def _check(
    target_ms: float | None,
    target_share: float | None,
    epochs: int,
    threads: int,
    precision: latency.Computed,
) -> None:
    """Refuse what no detector can be pruned to."""
    if (target_ms is None) == (target_share is None):
        raise ConfigError(
            "say how fast it has to be: target_ms or target_share (--target-ms 15), one of them"
        )
    if target_ms is not None and not 0 < target_ms < math.inf:
        raise ConfigError(f"target_ms must be a number of milliseconds above 0; got {target_ms:g}")
    if target_share is not None and not 0 < target_share < 1:
        raise ConfigError(f"target_share must be between 0 and 1, like 0.7; got {target_share:g}")
    if epochs < 1:
        raise ConfigError(f"epochs must be at least 1: what was cut has to be learned again; got {epochs}")
    if threads < 0:
        raise ConfigError(f"threads must be 0 (OpenVINO's choice) or more; got {threads}")
    if precision not in latency.PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(latency.PRECISIONS)}; got {precision!r}")
    latency.check_precision(precision)


def open_detector(file: str | Path) -> Detector:
    """A detector to prune, from its checkpoint.

    Raises:
        ArtifactError: if it is an exported file.
        WeightsError: if it is no detector's checkpoint.
    """
    if is_artifact(file):
        raise ArtifactError(
            f"{file} is exported already; prune the checkpoint that it was made from, and export that"
        )
    return Detector.from_checkpoint(file)


class _Clock:
    """Milliseconds of narrower detectors, each measured in alternation with the whole one."""

    def __init__(
        self,
        whole: DetectionModel,
        config: Config,
        data: str,
        precision: latency.Computed,
        threads: int,
    ) -> None:
        size = config.image_size
        self._compiled = partial(
            latency.compiled, config=config, data=data, precision=precision, threads=threads
        )
        self._pictures = latency.pictures_of(data, config.data.form)
        self._whole = self._compiled(whole)
        self.whole_ms = latency.times({"whole": self._whole}, self._pictures)["whole"]
        cores = "its own choice of threads" if threads == 0 else f"{threads} threads"
        self.how = f"OpenVINO in {precision}, {size[0]}x{size[1]}, {cores}: resizing and network"

    def milliseconds(self, model: DetectionModel) -> float:
        """Of a narrower detector: its ratio to the whole one beside it, times the whole one's own."""
        calls = {"whole": self._whole, "narrow": self._compiled(model)}
        found = latency.times(calls, self._pictures)
        return found["narrow"] / found["whole"] * self.whole_ms


def _choose(
    model: DetectionModel,
    bundles: Sequence[Bundle],
    target: float,
    clock: _Clock,
    announce: Callable[[str], None],
) -> _Choice:
    """The detector that lost the least of those that are fast enough.

    Raises:
        PruneError: if it is fast enough already, or cannot be.
    """
    if target >= clock.whole_ms:
        raise PruneError(
            f"it takes {clock.whole_ms:.1f} ms already, and the target is {target:.1f}: nothing to prune"
        )

    def tried(step: int) -> _Choice:
        share = _MOST * step / _STEPS
        narrowed = remove_channels(model, bundles, share)
        choice = _Choice(share, narrowed, clock.milliseconds(narrowed))
        announce(f"without {share:.0%} of the channels: {choice.milliseconds:.1f} ms")
        return choice

    best, low, high = tried(_STEPS), 0, _STEPS
    if best.milliseconds > target:
        raise PruneError(
            f"{target:.1f} ms cannot be reached by pruning: without {_MOST:.0%} of the channels it takes "
            f"{best.milliseconds:.1f} ms (now {clock.whole_ms:.1f}); take a smaller model or a smaller image size"
        )
    while high - low > 1:
        middle = (low + high) // 2
        choice = tried(middle)
        if choice.milliseconds <= target:
            best, high = choice, middle
        else:
            low = middle
    return best


def _proven(model: DetectionModel, bundles: Sequence[Bundle], share: float, images: torch.Tensor) -> float:
    """How far the cut is from the whole network without what nobody reads any more, on (B, C, H, W) uint8 pictures."""
    found = deviation(copy.deepcopy(model).double(), bundles, share, model.normalise(images).double())
    if not found <= EXACT:
        raise PruneError(
            f"the cut is not the function that it should be: its levels are off by {found:.1e} of their largest value; "
            "nothing was written. Please report it"
        )
    return found


def _fine_tuning(config: Config, epochs: int, changes: Mapping[str, Any]) -> Config:
    """The configuration of a short run on trained weights: the detector's, with a schedule that is derived anew.

    Raises:
        ConfigError: if a key or value is wrong, or would change the detector.
    """
    fresh = {
        "train": TrainConfig(epochs=epochs).model_dump(),
        "loss": {"encoder_copies": None},
        "distill": DistillConfig().model_dump(),
        "recipe": "auto",
        "weights_part": (),
    }
    schedule = {key: value for key, value in changes.items() if key in TrainConfig.model_fields}
    sections = {key: value for key, value in changes.items() if key not in schedule}
    tuning = build(merge(merge(config.model_dump(), fresh), merge({"train": schedule}, sections)))
    for name in ("image_size", *SECTIONS):
        if getattr(tuning, name) != getattr(config, name):
            raise ConfigError(f"{name} is part of what is pruned, and stays as it is; leave it out")
    return tuning


def _ap(model: DetectionModel, *, data: str | Path, classes: Any, config: Config) -> float:  # noqa: ANN401
    found = evaluate_split(deploy_form(model), data, "val", classes=classes, config=config)
    return cast("Metrics", found).ap


def _stage(
    name: str,
    model: DetectionModel,
    milliseconds: float,
    score: Callable[[DetectionModel], float],
    config: Config,
) -> Stage:
    size = measure_module(deploy_form(model), config.image_size, model.channels)
    return Stage(name, milliseconds, size.params, size.gflops, score(model))
