"""How large a model is: parameters, and the arithmetic of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    ``training`` is as it is trained, ``deploy`` after ``fuse``.
    """

    training: Size
    deploy: Size


def measure(config: Config, num_classes: int = 80) -> Size:
    """The size of a configuration's model, in its training form.

    The image has the configuration's ``image_size``.
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

    ``model`` takes (B, C, H, W) float images; it is set to evaluation mode while it is measured.
    """
    # Brings torch's compiler, which takes seconds to import.
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(model.parameters())
    packed = (
        torch.backends.mha.get_fastpath_enabled()
    )  # one operation for all of nn.MultiheadAttention, not countable
    modes = {part: part.training for part in model.modules()}
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _WithoutProducts(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, channels, *image_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(packed)
        for part, mode in modes.items():
            part.training = mode
    return Size(num_parameters(model), 1e-9 * counter.get_total_flops())


class _WithoutProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does not compute what is counted: zeros of the right shape come in its place.

    The meta device, which computes nothing at all, takes several times as long: its rules for sampling and norms are
    written in Python.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Every operation below the layers comes here."""
        if func.overloadpacket not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        shapes = [torch.empty_like(one, device="meta") if isinstance(one, Tensor) else one for one in args]
        found = func(*shapes)
        return torch.zeros(found.shape, dtype=found.dtype, device=args[0].device)


_ATEN = torch.ops.aten
_PRODUCTS: Final = {_ATEN.convolution, _ATEN.mm, _ATEN.bmm, _ATEN.addmm, _ATEN.baddbmm}
