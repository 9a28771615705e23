"""Depthwise convolutions of a training step under autocast on a CPU: their gradients are computed in float32.

oneDNN has no fast 16-bit kernels for them (torch 2.15). On a Zen 4 the gradients of ``efficientnet_lite0``'s depthwise
convolutions take 541 ms in bf16 and 125 ms in float32 (320 px, batch 4, one thread); its others take 95 ms.
What is kept for the backward pass and what leaves it have the narrow type as before: memory does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexdetr.engine.device import autocast


class _Form(NamedTuple):
    """How a convolution is placed over its input."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


@contextmanager
def training_autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """The context in which a training step goes forward: autocast, on a CPU with this module's gradients.

    Args:
        device: where it computes.
        dtype: of the step; nothing changes for float32.
    """
    lowered = device.type == "cpu" and dtype != torch.float32
    with autocast(device, dtype), _DepthwiseMode() if lowered else nullcontext():
        yield


class _DepthwiseMode(TorchFunctionMode):
    """Sends every depthwise ``conv2d`` to ``_Depthwise``, whoever's module calls it: timm's and users' as well."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # noqa: A002 - torch's name, by which it may be called
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """As torch's, with the gradients of this module if it is depthwise and autocast would lower it."""
    depthwise = 1 < groups == input.shape[1] == weight.shape[0]
    lowered = torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    if not depthwise or not lowered or isinstance(padding, str) or input.device.type != "cpu":
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    form = _Form(*([value] * 2 if isinstance(value, int) else value for value in (stride, padding, dilation)))
    answer: Tensor = _Depthwise.apply(input, weight, form, torch.get_autocast_dtype("cpu"))
    return answer if bias is None else answer + bias.to(answer.dtype).view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in a narrow type with its gradients in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: _Form, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        ctx.form, ctx.types = form, (x.dtype, weight.dtype)
        narrow = x.to(dtype)
        ctx.save_for_backward(narrow, weight)
        with torch.autocast("cpu", enabled=False):
            return torch.conv2d(narrow, weight.to(dtype), None, *form, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        # The weight as the forward pass rounded it; channels-last kernels are the fast ones.
        wide = (each.to(torch.float32, memory_format=torch.channels_last) for each in (gradient, x))
        by_input, by_weight, _ = torch.ops.aten.convolution_backward(
            *wide,
            weight.to(x.dtype).float(),
            None,
            *ctx.form,
            transposed=False,
            output_padding=[0, 0],
            groups=len(weight),
            output_mask=[ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        of_input, of_weight = ctx.types
        return (
            None if by_input is None else by_input.to(of_input),
            None if by_weight is None else by_weight.to(of_weight),
            None,
            None,
        )
