"""Half precision with exceptions: which layers compute in it, and which stay in float32."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from flexdetr.export.prepare import DeployForm

# Norms square their input and sum it up: they stay in float32, as under autocast.
ALWAYS_FLOAT32 = ("LayerNorm", "GroupNorm")


class InFloat32(nn.Module):
    """A layer that computes in float32 among layers of half precision.

    Args:
        inner: the layer, in float32.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the layer gives, in the type of its input."""
        return self.inner(x.float()).to(x.dtype)


def in_half(form: DeployForm, float32: Collection[str] = ()) -> DeployForm:
    """A copy that computes in half precision; pictures, boxes and scores stay in float32.

    Args:
        form: the float32 form.
        float32: what stays in float32 beside the norms: paths of layers, or kinds like "Linear".
    """
    form = copy.deepcopy(form)
    kept = [path for path, layer in leaves(form.detector) if _stays(path, layer, float32)]
    form.detector.half()
    for path in kept:
        parent, _, own = path.rpartition(".")
        layer = form.detector.get_submodule(path)
        setattr(form.detector.get_submodule(parent), own, InFloat32(layer.float()))
    return form


def store_in_half(form: DeployForm, float32: Collection[str] = ()) -> tuple[DeployForm, tuple[str, ...]]:
    """A copy whose weights are rounded to half precision but computed with in float32.

    Args:
        form: the float32 form.
        float32: paths or kinds of layers that keep all their digits.

    Returns:
        The copy, and the paths of layers with weights beyond half precision's range, which were left as they are.
    """
    form = copy.deepcopy(form)
    beyond = []
    for path, layer in leaves(form.detector):
        if _stays(path, layer, float32):
            continue
        for tensor in layer.parameters(recurse=False):
            rounded = tensor.data.half()
            if not torch.isfinite(rounded).all():
                beyond.append(path)
                break
            tensor.data = rounded.float()
    return form, tuple(beyond)


def leaves(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and layer of everything that has weights of its own and holds no other layer."""
    return [
        (path, layer)
        for path, layer in module.named_modules()
        if path
        and not any(True for _ in layer.children())
        and any(True for _ in layer.parameters(recurse=False))
    ]


def kind_of(form: DeployForm, path: str) -> str:
    """The kind of a layer, like "Linear"."""
    return type(form.detector.get_submodule(path)).__name__


def _stays(path: str, layer: nn.Module, float32: Collection[str]) -> bool:
    kind = type(layer).__name__
    return kind in ALWAYS_FLOAT32 or kind in float32 or path in float32
