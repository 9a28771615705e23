"""Where a run starts from, and the checkpoints that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError
from flexdetr.model.detector import DetectionModel
from flexdetr.weights.store import Metadata


@dataclass(frozen=True)
class Start:
    """A model at the beginning of a run.

    Attributes:
        model: the detector, with its starting weights.
        pretrained: whether the backbone starts from trained weights.
        provenance: every ancestor of the weights, nearest first.
        notes: what was loaded and what was left, one sentence each.
    """

    model: DetectionModel
    pretrained: bool = False
    provenance: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())


def start(config: Config, classes: Classes) -> Start:
    """Build the model and load what ``config.weights`` asks for.

    Raises:
        ConfigError: where the weights are unknown.
        WeightsError: where they cannot be used.
    """
    model = DetectionModel(config, len(classes))
    if config.weights == "none":
        return Start(model, notes=("weights: random",))
    raise ConfigError(f"weights {config.weights!r}: not a file")


def metadata_of(
    config: Config, classes: Classes, begun: Start, training: Mapping[str, Any]
) -> Metadata:
    """What travels with a run's checkpoints."""
    backbone = begun.model.backbone
    return Metadata(
        model=config.model,
        config=config.model_dump(mode="json"),
        classes=classes.to_json(),
        image_size=config.image_size,
        normalisation={"scale": 1 / 255, "mean": list(backbone.mean), "std": list(backbone.std)},
        training=dict(training),
        provenance=list(begun.provenance),
    )
