"""Parameter groups with their own rates, and AdamW over them."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from flexdetr.config import Config, ConfigError
from flexdetr.model.detector import DetectionModel

# Where parts of a backbone stand, by the names that our own and timm's networks give them.
_STAGE = re.compile(r"(?:^|\.)(?:stages|layers?|blocks)[._]?(\d+)\.")
_BEFORE_STAGES = ("stem", "body.")
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(model: DetectionModel, config: Config, *, pretrained: bool) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning-rate multiplier and weight decay.

    Norms, biases and learnable affine blocks (all that is a scalar or a vector) get no weight decay. The backbone's
    multiplier applies only where it starts from trained weights: from random weights it learns at the full rate.

    Args:
        model: the detector.
        config: a run's configuration without gaps.
        pretrained: whether the backbone starts from trained weights.

    Returns:
        Groups with "params", "lr" (the peak), "weight_decay" and "multiplier".
    """
    train = config.train
    if train.lr is None:
        raise ValueError("the learning rate is not settled; derive the recipe first")
    # The backbone's own, where the configuration names none.
    whole = model.backbone.lr_mult if pretrained else 1.0
    own = model.backbone.lr_multipliers()
    decays = _stage_decays(model, config.backbone.lr_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter in seen:
            continue
        seen.add(parameter)
        below = name.removeprefix("backbone.")
        multiplier = whole * own.get(below, 1.0) * decays.get(below, 1.0) if below != name else 1.0
        groups[multiplier, parameter.ndim > 1].append(parameter)
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
        ConfigError: where the backbone does not number its stages.
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
    return {name: decay ** (last - depth) for name, depth in depths.items()}


def build_optimizer(model: DetectionModel, config: Config, *, pretrained: bool) -> torch.optim.AdamW:
    """AdamW with one fused kernel over each group."""
    return torch.optim.AdamW(
        parameter_groups(model, config, pretrained=pretrained), betas=(0.9, 0.999), fused=True
    )
