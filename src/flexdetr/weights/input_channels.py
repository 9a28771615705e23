"""Weights of a first layer for RGB, for a model whose pictures have other channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flexdetr.config import Config
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred

if TYPE_CHECKING:
    from torch import Tensor

    from flexdetr.model.detector import DetectionModel

_RGB = 3


def widened_tensors(
    tensors: Mapping[str, Deferred], theirs: Config, model: DetectionModel, file: str
) -> dict[str, Deferred]:
    """The first layer's weight of a checkpoint as a model takes it; empty where it fits as it is.

    ``tensors`` may be named from within a backbone; ``theirs`` is their checkpoint's configuration.

    Raises:
        WeightsError: if the checkpoint is for other channels, and not for RGB.
    """
    from flexdetr.model.input_layer import adapted_weight

    if not _differ(theirs, model, file):
        return {}
    short = model.input_weight.removeprefix("backbone.")
    name = next((one for one in (model.input_weight, short) if one in tensors), None)
    if name is None or len(tensors[name].shape) != 4 or tensors[name].shape[1] != _RGB:
        return {}  # of another backbone, which the caller refuses
    one, channels = tensors[name], model.channels
    out, _, height, width = one.shape
    return {
        name: Deferred(
            (out, channels, height, width), one.dtype, lambda: adapted_weight(one.read(), channels)
        )
    }


def widened(state: Mapping[str, Tensor], theirs: Config, model: DetectionModel) -> dict[str, Tensor]:
    """The same of tensors that are at hand.

    Raises:
        WeightsError: as ``widened_tensors``.
    """
    from flexdetr.model.input_layer import adapted_weight

    if not _differ(theirs, model, "the detector") or model.input_weight not in state:
        return {}
    return {model.input_weight: adapted_weight(state[model.input_weight], model.channels)}


def _differ(theirs: Config, model: DetectionModel, file: str) -> bool:
    """Whether a first layer has to be made of one for RGB."""
    count = theirs.data.channels
    if count == model.channels:
        return False
    if count != _RGB:
        raise WeightsError(
            f"{file} was trained on pictures of {count} channel{'s'[: count - 1]}, and data.channels is "
            f"{model.channels}: set data.channels={count}, or start from weights for RGB"
        )
    return True
