"""A detector whose configuration is changed: built anew where that changes the model, with the weights that fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from flexdetr.config import Config
from flexdetr.config_values import some_of
from flexdetr.engine.checkpoint import StartingDetector, blank, with_weights
from flexdetr.model.detector import SECTIONS
from flexdetr.presets import changed
from flexdetr.weights.input_channels import widened
from flexdetr.weights.skeleton import set_norm_eps


def module_apart(changes: Mapping[str, Any]) -> tuple[dict[str, Any], nn.Module | None]:
    """Changes of a configuration with the name of its class for a backbone that is an object, and the object."""
    module = changes.get("backbone")
    if module is None or isinstance(module, str | Mapping):
        return dict(changes), None
    return {**changes, "backbone": f"{type(module).__module__}:{type(module).__qualname__}"}, module


def rebuilt(
    starting: StartingDetector, module: nn.Module | None, changes: Mapping[str, Any]
) -> tuple[Config, StartingDetector, nn.Module | None]:
    """A detector with changes to its configuration, for a further training.

    Args:
        starting: the detector.
        module: its backbone where that is an object of the user's, as it was before the detector was built.
        changes: keys of the ``train`` section, and other sections and keys.

    Returns:
        The configuration, the detector (``starting`` itself if nothing of the model has changed), and the backbone's
        module as ``module`` is.

    Raises:
        ConfigError: if a name, key or value is wrong, or the parts do not fit.
        WeightsError: if other weights are asked for, and do not fit.
    """
    values, given = module_apart(changes)
    former = starting.config
    config = changed(former, values)
    weights = config.weights if config.weights != former.weights else "none"
    part = config.backbone.weights if config.backbone.weights != former.backbone.weights else "auto"
    same = given is None and all(getattr(config, name) == getattr(former, name) for name in SECTIONS)
    same = same and config.data.channels == former.data.channels
    if same and weights == "none":
        return config, starting, module
    if given is None and config.backbone.name == former.backbone.name:
        given = copy.deepcopy(module)
    untouched = copy.deepcopy(given)
    ours, theirs = config.backbone, former.backbone
    keep = values.get("backbone") == changes.get("backbone") and (ours.name, ours.options) == (
        theirs.name,
        theirs.options,
    )
    built, trained = _carried_over(blank(config, starting.classes, given), starting, backbone=keep)
    return config, with_weights(built, weights, part, trained), untouched


def _carried_over(
    starting: StartingDetector, former: StartingDetector, *, backbone: bool
) -> tuple[StartingDetector, set[str]]:
    """The detector with all weights of another one that have their place and shape in it; names of the trained ones."""
    old, new = former.model.state_dict(), starting.model.state_dict()
    if backbone:
        old |= widened(old, former.config, starting.model)
    fits = {
        name: value
        for name, value in old.items()
        if name in new and new[name].shape == value.shape and (backbone or not name.startswith("backbone."))
    }
    starting.model.load_state_dict(fits, strict=False)
    paths = {path for path, _ in starting.model.named_modules()}
    eps = {path: value for path, value in former.metadata.norm_eps.items() if path in paths}
    if not backbone:
        eps = {path: value for path, value in eps.items() if not path.startswith("backbone")}
    set_norm_eps(starting.model, eps)
    metadata = replace(
        starting.metadata,
        norm_eps=eps,
        licence=former.metadata.licence,
        provenance=former.metadata.provenance,
    )
    notes: list[str] = []
    for part, module in starting.model.named_children():
        names = [name for name, _ in module.named_parameters(prefix=part)]
        missing = [name for name in names if name not in fits]
        if missing:
            kept = f"{len(names) - len(missing)} of {len(names)} weights carried over"
            notes.append(f"{part}: {kept}, at random: {some_of(missing)}")
        else:
            notes.append(f"{part}: all weights carried over")
    trained = {
        name
        for name, _ in former.model.named_parameters()
        if name in fits
        and name.partition(".")[0] in former.trained.trained
        and name not in former.trained.fresh
    }
    return replace(starting, metadata=metadata, notes=tuple(notes)), trained
