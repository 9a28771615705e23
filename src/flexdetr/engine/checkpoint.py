"""Where a run or a detector starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexdetr.classes import Classes
from flexdetr.config import Config, build, merge
from flexdetr.model.detector import DetectionModel
from flexdetr.weights.store import Metadata


@dataclass(frozen=True)
class Start:
    """A detector with all that belongs to it.

    Attributes:
        model: the torch module.
        config: the configuration that it was built from.
        classes: of its head.
        metadata: what its checkpoints carry.
        pretrained: whether the backbone has trained weights.
        notes: what was loaded and what was left, one sentence each.
    """

    model: DetectionModel
    config: Config
    classes: Classes
    metadata: Metadata
    pretrained: bool = False
    notes: tuple[str, ...] = ()

    def describe(self, config: Config, training: Mapping[str, Any]) -> Metadata:
        """The metadata of a checkpoint that training made of this start."""
        return replace(
            self.metadata,
            config=config.model_dump(mode="json"),
            image_size=config.image_size,
            training=dict(training),
        )


def blank(config: Config, classes: Classes) -> Start:
    """A detector with random weights."""
    model = DetectionModel(config, len(classes))
    backbone = model.backbone
    metadata = Metadata(
        model=config.model,
        config=config.model_dump(mode="json"),
        classes=classes.to_json(),
        image_size=config.image_size,
        normalisation={"scale": 1 / 255, "mean": list(backbone.mean), "std": list(backbone.std)},
        licence="Apache-2.0",
    )
    return Start(model, config, classes, metadata, notes=("weights: random",))


def start(config: Config, classes: Classes) -> Start:
    """Build the detector and load what ``config.weights`` asks for.

    Raises:
        ConfigError: where the configuration does not fit.
        WeightsError: where the weights cannot be used.
    """
    begun = blank(config, classes)
    if config.weights == "none":
        return begun
    from flexdetr.weights.pretrained import begin_with

    return begin_with(begun)


def restore(path: str | Path, changes: Mapping[str, Any]) -> Start:
    """The detector of a checkpoint.

    Args:
        path: ours, or one of another project.
        changes: configuration keys that do not change a weight's shape.

    Raises:
        WeightsError: where the file cannot be used.
    """
    from flexdetr.weights import load_any

    loaded = load_any(path)
    config = build(merge(loaded.config.model_dump(), changes))
    begun = blank(config, loaded.classes)
    loaded.fill(begun.model)
    return replace(begun, metadata=loaded.metadata, pretrained=True, notes=(str(loaded.report),))
