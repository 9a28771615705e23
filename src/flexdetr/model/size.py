"""How large a model is: parameters, and the arithmetic of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flexdetr.config import Config
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse


class Size(NamedTuple):
    """A model's size.

    Attributes:
        params: parameters, frozen ones included, buffers not.
        gflops: 1e9 operations for one image; a multiply-add counts as two, as this field publishes it. Counted are
            convolutions and matrix products, those of attention included; norms, activations and sampling are not.
    """

    params: int
    gflops: float


class Sizes(NamedTuple):
    """Both forms of a model.

    Attributes:
        training: as it is trained.
        deploy: after ``fuse``.
    """

    training: Size
    deploy: Size


def measure(config: Config, num_classes: int = 80) -> Size:
    """The size of a configuration's model, in its training form.

    Args:
        config: the whole configuration; ``image_size`` is the size of the image.
        num_classes: C, classes of the heads.
    """
    return measure_module(DetectionModel(config, num_classes), config.image_size, config.data.channels)


def measure_both(config: Config, num_classes: int = 80) -> Sizes:
    """The sizes of a configuration's model in both forms; see ``measure``."""
    model = DetectionModel(config, num_classes).eval()
    size, channels = config.image_size, config.data.channels
    return Sizes(measure_module(model, size, channels), measure_module(fuse(model), size, channels))


def rounded(sizes: Sizes) -> dict[str, float]:
    """The four numbers as ``flexdetr info`` and the table of presets have them."""
    training, deploy = sizes
    return {
        "params": training.params,
        "gflops": round(training.gflops, 3),
        "params_deploy": deploy.params,
        "gflops_deploy": round(deploy.gflops, 3),
    }


def num_parameters(model: nn.Module) -> int:
    """How many parameters a module has, frozen ones included."""
    return sum(one.numel() for one in model.parameters())


def measure_module(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> Size:
    """The size of a detection module, in the form that it has.

    Args:
        model: takes (B, C, H, W) float images; is set to evaluation mode while it is measured.
        image_size: (height, width) of the image.
        channels: C.
    """
    parameter = next(model.parameters())
    packed = (
        torch.backends.mha.get_fastpath_enabled()
    )  # one operation for all of nn.MultiheadAttention, not countable
    modes = {part: part.training for part in model.modules()}
    counter = _Counter()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), counter:
            model(torch.zeros(1, channels, *image_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(packed)
        for part, mode in modes.items():
            part.training = mode
    return Size(num_parameters(model), 2e-9 * counter.multiply_adds)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds, and does not compute what it counts: zeros of the right shape come in its place.

    The meta device, which computes nothing at all, takes several times as long: its rules for sampling and norms are
    written in Python.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Every operation below the layers comes here."""
        packet = func.overloadpacket
        if packet in _ATTENTION:
            query, key, value = args[:3]
            self.multiply_adds += prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        rule = _RULES.get(packet)
        if rule is None:
            return func(*args, **(kwargs or {}))
        shape, like, count = rule(*args)
        self.multiply_adds += count
        return like.new_zeros(shape)


_Rule = tuple[Sequence[int], Tensor, int]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,  # noqa: ARG001 - aten's own order
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> _Rule:
    """Shape, type and multiply-adds of a convolution over any number of dimensions."""
    kernel = weight.shape[2:]
    sides = []
    for i, side in enumerate(x.shape[2:]):
        reach = dilation[i] * (kernel[i] - 1)
        if transposed:
            sides.append((side - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1)
        else:
            sides.append((side + 2 * padding[i] - reach - 1) // stride[i] + 1)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    shape = (x.shape[0], channels, *sides)
    # Every weight meets each output position once; of a transposed one, each input position.
    positions = prod(x.shape[2:]) if transposed else prod(sides)
    return shape, x, x.shape[0] * positions * weight.numel()


def _mm(a: Tensor, b: Tensor) -> _Rule:
    shape = (*a.shape[:-1], b.shape[-1])
    return shape, a, prod(shape) * a.shape[-1]


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> _Rule:  # noqa: ARG001 - aten's own order
    return _mm(a, b)


_ATEN = torch.ops.aten
_RULES: Final[Mapping[Any, Callable[..., _Rule]]] = {
    _ATEN.convolution: _convolution,
    _ATEN.mm: _mm,
    _ATEN.bmm: _mm,
    _ATEN.addmm: _addmm,
    _ATEN.baddbmm: _addmm,
}
# These return more than one tensor: they are computed, and counted beside.
_ATTENTION: Final = {
    getattr(_ATEN, name)
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
}
