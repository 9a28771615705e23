"""Any checkpoint as a detector of ours: recognised, renamed, checked against the model, then read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from flexdetr.classes import ClassError, Classes
from flexdetr.classifiers import classifier_on
from flexdetr.config import BackboneConfig, Config, ConfigError, build, merge
from flexdetr.config_values import some_of
from flexdetr.files import sha256
from flexdetr.foreign_code import named, objection
from flexdetr.presets import MODELS
from flexdetr.weights import coco_classes
from flexdetr.weights.architecture import backbone_of, config_of
from flexdetr.weights.classifier_names import head_values, norm_eps, published_classes
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.hub import local
from flexdetr.weights.load_report import LoadReport
from flexdetr.weights.manifest import PublishedWeights
from flexdetr.weights.published import fetch, preset_entry
from flexdetr.weights.recognise import Source, recognise
from flexdetr.weights.renaming import complete
from flexdetr.weights.store import Metadata

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flexdetr.model.detector import DetectionModel


@dataclass
class Loaded:
    """A checkpoint, understood; its tensors are read when they are asked for.

    Attributes:
        config: the configuration of its detector.
        classes: of its head; empty for a backbone.
        metadata: what our format writes beside the weights.
        report: the story, for people.
        kind: a key of ``recognise.KINDS``.
        tensors: by our module path.
        partial: whether missing and unknown tensors are accepted.
        blank: a detector that was built to check against, until ``build`` takes it.
        classifier: the layers of a classifier behind a backbone; empty if there are none.
    """

    config: Config
    classes: Classes
    metadata: Metadata
    report: LoadReport
    kind: str
    tensors: dict[str, Deferred] = field(repr=False)
    partial: bool = False
    blank: DetectionModel | None = field(default=None, repr=False)
    classifier: dict[str, Deferred] = field(default_factory=dict, repr=False)

    @property
    def is_backbone(self) -> bool:
        """Whether the file holds a backbone and no detector."""
        return self.kind == "backbone"

    def traced(self) -> Metadata:
        """The metadata with the sha256 of the file that it all came from."""
        path = Path(self.report.file)
        if self.kind == "flexdetr" or not self.metadata.provenance or not path.is_file():
            return self.metadata
        nearest, *others = self.metadata.provenance
        return replace(self.metadata, provenance=[{**nearest, "sha256": sha256(path)}, *others])

    def as_classifier(self, overrides: Mapping[str, Any]) -> Self:
        """A backbone with the classifier behind it as a whole model; anything else as it is.

        Args:
            overrides: as ``load_any`` takes them.
        """
        if not self.is_backbone or not self.classifier:
            return self
        base = classifier_on(self.config.backbone, head_values(self.classifier))
        config = build(merge(base.model_dump(), overrides))
        classes, named = published_classes(self.classifier["head.linear.weight"].shape[0])
        tensors = {**self.tensors, **self.classifier}
        metadata = replace(
            self.metadata,
            model=config.model,
            part="classifier",
            config=config.model_dump(mode="json"),
            classes=classes.to_json(),
            image_size=config.image_size,
            norm_eps={**self.metadata.norm_eps, **norm_eps(config.backbone.name)},
            normalisation=_normalisation(config, len(classes)),
        )
        report = replace(
            self.report,
            model=_departures(config),
            classes=f"{len(classes)}, {named}",
            image_size=config.image_size,
            mapped=len(tensors),
            left={},
        )
        return replace(
            self,
            config=config,
            classes=classes,
            metadata=metadata,
            report=report,
            kind="classifier",
            tensors=tensors,
            classifier={},
        )

    def state(self) -> dict[str, Tensor]:
        """All tensors, read."""
        return {name: tensor.read() for name, tensor in self.tensors.items()}

    def build(self, config: Config | None = None, backbone: nn.Module | None = None) -> DetectionModel:
        """The detector with its weights, in evaluation mode.

        Args:
            config: a configuration that departs from the checkpoint's in what changes no weight's shape.
            backbone: the module that the configuration names, where the user has it as an object.

        Raises:
            WeightsError: if names or shapes do not fit, or the file is a backbone.
        """
        from flexdetr.model.detector import DetectionModel
        from flexdetr.weights.skeleton import load_into, set_norm_eps, skeleton

        if self.is_backbone:
            raise WeightsError(
                f"{self.report.file} is a backbone ({self.config.backbone.name}), not a detector; train with "
                f"--weights {self.report.file}, or set backbone.weights"
            )
        config = config or self.config
        tensors = self.tensors
        if self.blank is not None and config == self.config and not self.partial and backbone is None:
            model, self.blank = self.blank, None  # checked against these tensors when it was built
        else:
            build_model = DetectionModel if self.partial else skeleton
            model = build_model(config, len(self.classes), backbone)
            tensors = fitting(tensors, model, self.report.file, partial=self.partial)
        load_into(model, {name: tensor.read() for name, tensor in tensors.items()})
        set_norm_eps(model, self.metadata.norm_eps)
        return model.eval()


def load_any(
    path: str | Path | PublishedWeights,
    *,
    kind: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    partial: bool = False,
    prefer: str = "EMA",
    backbone: BackboneConfig | None = None,
) -> Loaded:
    """Understand a checkpoint: ours, or one of another project.

    Args:
        path: a file, a folder that transformers saved, ``hf://user/name[@revision]``, or published weights: a preset's
            name, or an entry of the manifest. Those are fetched unless they are here.
        kind: what it should be (a key of ``recognise.KINDS``); anything else is refused then.
        overrides: nested values of the configuration that win over what the file says, like
            ``{"head": {"sampling": "discrete"}}``.
        partial: accept missing tensors (initialised at random) and tensors that have no place.
        prefer: "EMA" or "raw" weights, where a training checkpoint holds both.
        backbone: the backbone that the file is wanted for; a timm checkpoint is told by it.

    Raises:
        WeightsError: if the file cannot be used; one sentence says why.
        ConfigError: if an override is wrong.
    """
    published = path if isinstance(path, PublishedWeights) else preset_entry(path)
    path = fetch(published) if published is not None else local(cast("str | Path", path))
    source = recognise(path, kind=kind, prefer=prefer, backbone=backbone)
    if published is not None:  # the manifest knows the licence, which few files name
        source.licence, source.address = published.licence, published.address
    if source.metadata is not None:
        return _ours(source, source.metadata, overrides or {}, backbone, partial=partial)
    try:
        tensors = complete(source.renamed.state)
    except WeightsError as error:
        raise WeightsError(f"{path} is {source.title}, but {error}") from None
    if source.kind == "backbone":
        return _backbone(source, tensors)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        config, count = config_of(shapes, source.known, source.family, source.config)
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path} is {source.title}, but {error}") from None
    config = build(merge(config.model_dump(), overrides or {}))
    _check_code(config, path, overrides or {}, backbone)
    if source.classes is not None and len(source.classes) == count:
        classes, named = source.classes, "named in the file, with their ids"
    else:
        classes, named = coco_classes.named(source.names, count)
    return _checked(source, tensors, config, classes, named, partial=partial)


def _check_code(
    config: Config, path: Path, overrides: Mapping[str, Any], wanted: BackboneConfig | None
) -> None:
    """Refuse a backbone that only the file names; the one that it is wanted for is about to be made anyway."""
    typed = [*named(overrides).values(), *([] if wanted is None else [wanted.name])]
    if (reason := objection(config.backbone.name, path, typed)) is not None:
        raise WeightsError(reason)


def _ours(
    source: Source,
    metadata: Metadata,
    overrides: Mapping[str, Any],
    backbone: BackboneConfig | None,
    *,
    partial: bool,
) -> Loaded:
    """A file of ours: everything is in its metadata."""
    try:
        # The transforms of the training that made the file are its author's: who trains on names them anew.
        own = merge(metadata.config, {"data": {"transforms": None}} if "data" in metadata.config else {})
        config = build(merge(own, overrides))
        classes = Classes.from_json(metadata.classes)
    except (ConfigError, ClassError) as error:
        if overrides and isinstance(error, ConfigError):
            raise
        raise WeightsError(
            f"{source.path} holds a configuration that this FlexDETR cannot use (if a newer one wrote it, update): "
            f"{error}"
        ) from error
    _check_code(config, source.path, overrides, backbone)
    tensors = source.renamed.state
    model = f"backbone {config.backbone.name}" if source.kind == "backbone" else _departures(config)
    report = _report(source, model, f"{len(classes)}, named in the file", config, len(tensors), ())
    return Loaded(config, classes, metadata, report, source.kind, tensors, partial)


def _backbone(source: Source, tensors: dict[str, Deferred]) -> Loaded:
    shapes = {name.removeprefix("backbone."): tensor.shape for name, tensor in tensors.items()}
    known = source.known.get("backbone", {})
    try:
        section = known if "name" in known else merge(backbone_of(shapes), known)
    except WeightsError as error:
        raise WeightsError(f"{source.path} is {source.title}, but {error}") from None
    config = build({"backbone": section})
    metadata = Metadata(
        model=config.backbone.name,
        part="backbone",
        config=config.model_dump(mode="json"),
        licence=source.licence,
        provenance=[_origin(source)],
    )
    report = _report(source, f"backbone {config.backbone.name}", "none", config, len(tensors), ())
    return Loaded(
        config,
        Classes((), ()),
        metadata,
        report,
        "backbone",
        tensors,
        classifier=complete(source.classifier),
    )


def _normalisation(config: Config, num_classes: int) -> dict[str, Any]:
    """What a model does to uint8 RGB first, for metadata."""
    from flexdetr.weights.skeleton import skeleton

    model = skeleton(config, num_classes)
    return {"scale": 1 / 255, "mean": list(model.mean), "std": list(model.std)}


def _checked(
    source: Source,
    tensors: dict[str, Deferred],
    config: Config,
    classes: Classes,
    named: str,
    *,
    partial: bool,
) -> Loaded:
    """Compare with the model that the configuration describes; refuse what does not fit it."""
    from flexdetr.weights.skeleton import skeleton

    model = skeleton(config, len(classes))
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    unknown = [*source.renamed.unknown, *(name for name in tensors if name not in expected)]
    report = _report(source, _departures(config), f"{len(classes)}, {named}", config, len(tensors), missing)
    report = replace(report, unknown=unknown)
    if (missing or unknown) and not partial:
        raise WeightsError(
            f"{source.path} is {source.title}, but only in part a model that FlexDETR has: "
            + "; ".join(
                f"{len(names)} tensors {what} ({some_of(names)})"
                for names, what in ((missing, "are missing"), (unknown, "have no place"))
                if names
            )
            + "; `flexdetr convert --partial` takes what fits"
        )
    metadata = Metadata.of(
        config,
        classes,
        model.mean,
        model.std,
        norm_eps=source.norm_eps,
        licence=source.licence,
        provenance=[_origin(source), *source.ancestors],
    )
    fitted = fitting(tensors, expected, str(source.path), partial=partial)
    return Loaded(config, classes, metadata, report, source.kind, fitted, partial, model)


def fitting(
    tensors: Mapping[str, Deferred],
    model: nn.Module | Mapping[str, Tensor],
    file: str,
    *,
    partial: bool = False,
) -> dict[str, Deferred]:
    """The tensors that a model, or a state dict, takes, checked by name and shape.

    Raises:
        WeightsError: if a shape or the kind of numbers differs; where a name is missing or unknown, unless
            ``partial``.
    """
    expected = model if isinstance(model, Mapping) else model.state_dict()
    for name in tensors.keys() & expected.keys():
        if tensors[name].shape != tuple(expected[name].shape):
            raise WeightsError(
                f"{file} does not fit: {name} has the shape {list(tensors[name].shape)}, "
                f"and the model's is {list(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and "float" not in tensors[name].dtype:
            raise WeightsError(f"{file} does not fit: {name} holds {tensors[name].dtype}, and no weights")
    for names, what in (
        (expected.keys() - tensors.keys(), "lacks"),
        (tensors.keys() - expected.keys(), "has also"),
    ):
        if names and not partial:
            raise WeightsError(f"{file} does not fit the model: it {what} {some_of(sorted(names))}")
    return {name: tensor for name, tensor in tensors.items() if name in expected}


def _report(
    source: Source, model: str, classes: str, config: Config, mapped: int, missing: Sequence[str]
) -> LoadReport:
    return LoadReport(
        file=str(source.path),
        title=source.title,
        branch=source.branch,
        model=model,
        classes=classes,
        image_size=None if source.kind == "backbone" else config.image_size,
        mapped=mapped,
        left=source.renamed.left,
        unknown=source.renamed.unknown,
        missing=missing,
        notes=source.notes,
    )


def _origin(source: Source) -> dict[str, Any]:
    """What our metadata says about an ancestor."""
    origin = {"source": source.title, "file": source.path.name, "licence": source.licence}
    told = {"branch": source.branch, "address": source.address}
    return {**origin, **{key: value for key, value in told.items() if value}}


def _departures(config: Config) -> str:
    """The preset, and what the configuration changes of it."""
    preset = MODELS.get(config.model)
    if preset is None:
        return f"{config.model} on {config.backbone.name}"
    ours, theirs = config.model_dump(), preset.model_dump()
    changes = [
        f"{section}.{key}={value}"
        for section in ("backbone", "encoder", "head")
        for key, value in ours[section].items()
        if theirs[section].get(key) != value  # another head has other options
    ]
    if ours["image_size"] != theirs["image_size"]:
        changes.append(f"image_size={config.image_size[0]}x{config.image_size[1]}")
    if config.pruned:
        changes.append(f"{len(config.pruned)} layers pruned")
    return config.model + (f" with {', '.join(changes)}" if changes else "")


_ADDITIONS = re.compile(r"(?:backbone|encoder)\.(?:.*\.)?(?:inserts?|attention_insert|levels\.made)\.")


def is_addition(name: str) -> bool:
    """Whether a tensor belongs to a part that a published model cannot have: an attention insert, a made level."""
    return _ADDITIONS.match(name) is not None
