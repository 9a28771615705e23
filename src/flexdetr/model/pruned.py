"""Layers that are narrower than their parts build them, as ``flexdetr prune`` leaves them.

A detector's parts know their widths by themselves; ``Config.pruned`` says which layers of this one have fewer channels,
by module path: ``[out, in]`` of a convolution or a linear layer (``[out, 1]`` of a depthwise one), ``[channels]`` of a
batch norm. Whoever builds a detector from a configuration gets the narrow layers: checkpoints, resumed runs, exports.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flexdetr.config import ConfigError, nearest

Widths = Mapping[str, tuple[int, ...]]


def narrow(model: nn.Module, widths: Widths) -> None:
    """Make layers narrower, in place; of their weights the first ones stay, to be loaded over.

    Raises:
        ConfigError: if a layer does not exist, has no channels to take, or is narrower already.
    """
    layers = dict(model.named_modules()) if widths else {}
    for path, kept in widths.items():
        if path not in layers:
            raise ConfigError(f"pruned: {nearest(path, layers, 'layer')}")
        there = widths_of_layer(layers[path])
        if there is None:
            kind = type(layers[path]).__name__
            raise ConfigError(
                f"pruned.{path}: convolutions without groups, depthwise ones, linear layers and batch norms can be "
                f"narrower, and this is a {kind}"
            )
        if len(kept) != len(there) or not all(
            0 < some <= whole for some, whole in zip(kept, there, strict=True)
        ):
            raise ConfigError(
                f"pruned.{path}: this layer has {list(there)} channels, and {list(kept)} is not part of it"
            )
        for axis, count in enumerate(kept):
            if count < there[axis]:
                take(layers[path], axis, torch.arange(count))


def differing(narrowed: nn.Module, whole: nn.Module) -> dict[str, tuple[int, ...]]:
    """The table that makes ``whole`` as narrow as ``narrowed``."""
    there = {path: widths_of_layer(layer) for path, layer in whole.named_modules()}
    here = {path: widths_of_layer(layer) for path, layer in narrowed.named_modules()}
    return {path: kept for path, kept in here.items() if kept is not None and kept != there[path]}


def widths_of_layer(layer: nn.Module) -> tuple[int, ...] | None:
    """Channels of a layer as the table has them; None of a layer that cannot be narrowed."""
    if isinstance(layer, _BatchNorm):
        return (layer.num_features,) if layer.affine else None
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    if isinstance(layer, nn.Conv2d) and (layer.groups == 1 or is_depthwise(layer)):
        return (layer.out_channels, layer.in_channels // layer.groups)
    return None


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with a kernel of its own for each channel."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )


def take(layer: nn.Module, axis: int, kept: Tensor) -> None:
    """Keep some channels of a layer's output (axis 0) or input (axis 1), in place.

    ``kept`` are (N,) positions, in their order.
    """
    depthwise = is_depthwise(layer)
    # A bias has no input, and a counter of batches no channels.
    for name, parameter in layer._parameters.items():
        if parameter is not None and parameter.dim() > axis:
            chosen = parameter.detach().index_select(axis, kept.to(parameter.device))
            layer._parameters[name] = nn.Parameter(chosen, parameter.requires_grad)
    for name, buffer in layer._buffers.items():
        if buffer is not None and buffer.dim() > axis:
            layer._buffers[name] = buffer.index_select(axis, kept.to(buffer.device))
    count = len(kept)
    if isinstance(layer, _BatchNorm):
        layer.num_features = count
    elif isinstance(layer, nn.Linear):
        setattr(layer, ("out_features", "in_features")[axis], count)
    elif isinstance(layer, nn.Conv2d):
        setattr(layer, ("out_channels", "in_channels")[axis], count)
        if depthwise:
            layer.in_channels = layer.groups = count
