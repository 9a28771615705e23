"""Half precision with exceptions: which layers compute in it, and which stay in float32."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm

# Norms square their input and sum it up: they stay in float32, as under autocast.
ALWAYS_FLOAT32 = ("LayerNorm", "RMSNorm", "GroupNorm")
# Half precision ends at 65504; other pictures may reach twice as far as those that were looked at.
_SAFE = 32752.0


class InFloat32(nn.Module):
    """A layer, or a part made of layers, that computes in float32 among layers of half precision.

    The layer gives one tensor.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - what the part takes
        """Whatever the layer gives, in the type of its first input."""
        return self.inner(x.float(), *(_widened(other) for other in others)).to(x.dtype)


def _widened(value: Any) -> Any:  # noqa: ANN401 - see above
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def in_half(form: DeployForm, float32: Collection[str] = ()) -> DeployForm:
    """A copy that computes in half precision; pictures, boxes and scores stay in float32.

    In ``float32`` stay, beside the norms, paths of layers or of parts made of layers, or kinds like "Linear".
    """
    form = copy.deepcopy(form)
    form.dtype = torch.float16
    parts = {path for path, _ in form.detector.named_modules() if path in float32}
    single = [path for path, layer in leaves(form.detector) if _stays(path, layer, float32)]
    kept = [path for path in dict.fromkeys([*parts, *single]) if not _inside(path, parts)]
    whole = {path: copy.deepcopy(form.detector.get_submodule(path)) for path in kept}
    form.detector.half()
    for path, layer in whole.items():
        parent, _, own = path.rpartition(".")
        setattr(form.detector.get_submodule(parent), own, InFloat32(layer))
    return form


def beyond_half(form: DeployForm, pictures: Iterable[tuple[Tensor, ...]]) -> dict[str, float]:
    """Parts that cannot compute in half precision, because values inside them are beyond its range.

    CPUs compute half precision in float32, or round only what leaves a chain of operations, so that running a written
    file there would not show it.

    Returns:
        The smallest parts around such values whose own output is within the range -> the largest value inside.

    Raises:
        ExportError: if no part smaller than the encoder or the decoder has its output within the range.
    """
    largest: dict[str, float] = {}

    def watch(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            largest[path] = max(largest.get(path, 0.0), float(output.abs().max()))

    def hook(path: str) -> Any:  # noqa: ANN401 - torch's own type for hooks is not public
        return lambda _module, _inputs, output: watch(path, output)

    with ExitStack() as hooks, torch.inference_mode():
        for path, part in form.detector.named_modules():
            if path:
                hooks.enter_context(part.register_forward_hook(hook(path)))
        for inputs in pictures:
            form(*inputs)
    weights = {
        path: max(float(weight.abs().max()) for weight in layer.parameters(recurse=False))
        for path, layer in leaves(form.detector)
        if type(layer).__name__ not in ALWAYS_FLOAT32
    }
    found = {path: value for path, value in weights.items() if value > _SAFE}
    for path, value in largest.items():
        if value <= _SAFE:
            continue
        around = path
        while "." in around and largest.get(around, float("inf")) > _SAFE:
            around = around.rpartition(".")[0]
        if "." not in around:
            raise ExportError(
                f"this model does not fit in half precision: {path} reaches {value:.2g}, and half precision ends at "
                "65504; use --precision fp32"
            )
        found[around] = max(found.get(around, 0.0), value)
    return {path: value for path, value in found.items() if not _inside(path, found)}


def store_in_half(form: DeployForm, float32: Collection[str] = ()) -> tuple[DeployForm, tuple[str, ...]]:
    """A copy whose weights are rounded to half precision but computed with in float32.

    The layers of the paths or kinds in ``float32`` keep all their digits.

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


def _inside(path: str, parts: Collection[str]) -> bool:
    """Whether a path lies below one of the parts."""
    return any(path.startswith(part + ".") for part in parts)


def _stays(path: str, layer: nn.Module, float32: Collection[str]) -> bool:
    kind = type(layer).__name__
    return kind in ALWAYS_FLOAT32 or kind in float32 or path in float32
