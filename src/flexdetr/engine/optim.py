"""Which parameters learn and at which rates, and AdamW over them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flexdetr.config import Config, ConfigError
from flexdetr.engine.recipe import multipliers
from flexdetr.model.detector import DetectionModel
from flexdetr.weights.trained import TrainedParts

# Where parts of a backbone stand, by the names that our own and timm's networks give them.
_STAGE = re.compile(r"(?:^|\.)(?:stages|layers?|blocks)[._]?(\d+)\.")
_BEFORE_STAGES = ("stem", "body.")


def parameter_groups(
    model: DetectionModel, config: Config, parts: TrainedParts, beside: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning-rate multiplier and weight decay.

    Norms, biases and learnable affine blocks (all that is a scalar or a vector) get no weight decay. What starts from
    random weights learns at the full rate, also inside a part that is trained; see ``recipe.multipliers`` for the rest.

    Args:
        model: the detector.
        config: a run's configuration without gaps.
        parts: what starts from trained weights.
        beside: parameters that are no part of the model and learn with it, at the full rate.

    Returns:
        Groups with "params", "lr" (the peak), "weight_decay" and "multiplier".
    """
    train = config.train
    if train.lr is None:
        raise ValueError("the learning rate is not settled; derive the recipe first")
    own_rate = config.backbone.lr_mult
    rates = multipliers(parts, model.backbone.lr_mult if own_rate is None else own_rate)
    own = model.backbone.lr_multipliers()
    decays = _stage_decays(model, config.backbone.lr_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter in seen:
            continue
        seen.add(parameter)
        part, _, below = name.partition(".")
        multiplier = 1.0 if name in parts.fresh else rates[part] * decays.get(name, 1.0)
        if part == "backbone":
            multiplier *= own.get(below, 1.0)
        groups[multiplier, parameter.ndim > 1].append(parameter)
    for parameter in beside:
        groups[1.0, parameter.ndim > 1].append(parameter)
    return [
        {
            "params": parameters,
            "lr": train.lr * multiplier,
            "weight_decay": train.weight_decay if decayed else 0.0,
            "multiplier": multiplier,
        }
        for (multiplier, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _stage_decays(model: DetectionModel, decay: float) -> dict[str, float]:
    """Layer-wise rates: what each of the backbone's parameters is slowed by, by name; the last stage is not.

    Raises:
        ConfigError: if the backbone does not number its stages.
    """
    if decay == 1:
        return {}
    depths = {}
    for name, _ in model.backbone.named_parameters():
        if (found := _STAGE.search(name)) is not None:
            depths[name] = int(found[1]) + 1
        elif name.startswith(_BEFORE_STAGES):
            depths[name] = 0
    last = max(depths.values(), default=0)
    if last == 0:
        raise ConfigError(
            f"backbone.lr_decay={decay}: {model.backbone.name} does not number its stages; use backbone.lr_mult"
        )
    return {f"backbone.{name}": decay ** (last - depth) for name, depth in depths.items()}


def freeze(model: DetectionModel, config: Config, parts: TrainedParts) -> None:
    """Keep the backbone's parts that the configuration names as they are; what starts from random weights learns.

    Raises:
        ConfigError: if the backbone does not have the parts.
    """
    if "backbone" not in parts.trained:  # freezing it would freeze noise
        return
    part = config.backbone
    learns = [one for name, one in model.named_parameters() if name in parts.fresh and one.requires_grad]
    model.backbone.freeze(stem=part.freeze_stem, stages=part.freeze_stages, norms=part.freeze_norms)
    for parameter in learns:
        parameter.requires_grad_(True)


def build_optimizer(
    model: DetectionModel, config: Config, parts: TrainedParts, beside: Iterable[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """AdamW with one fused kernel over each group; see ``parameter_groups``."""
    return torch.optim.AdamW(parameter_groups(model, config, parts, beside), betas=(0.9, 0.999), fused=True)
