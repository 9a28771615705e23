"""Autocast for training on a CPU: torch's own, without the three kinds of layers that it makes slow (torch 2.15).

- Depthwise convolutions: oneDNN has no fast 16-bit kernels for their gradients, which are computed in float32. On a
  Zen 4 those of ``efficientnet_lite0`` take 541 ms in bf16 and 125 ms in float32 (320 px, batch 4, one thread); its
  other convolutions take 95 ms.
- Attention: the gradients of the fused kernel are faster in float32, which is also more exact. On a Sapphire Rapids,
  100 tokens of 4 pictures and 8 heads, forwards and backwards: 12.3 ms in bf16, 2.4 ms in float32.
- Batch norms before a concatenation: their gradient is a part of a larger tensor, and torch reads it value by value:
  52 ms instead of 1 (4 pictures of 256 x 40 x 40).

What is kept for the backward pass of a convolution, and what leaves a layer, have the narrow type as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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
    """The context in which a training step goes forward: autocast, on a CPU with this module's layers.

    Args:
        device: where it computes.
        dtype: of the step; nothing changes for float32.
    """
    lowered = device.type == "cpu" and dtype != torch.float32
    with autocast(device, dtype), _CPULayers() if lowered else nullcontext():
        yield


class _CPULayers(TorchFunctionMode):
    """Computes some functions of torch in another way, whoever's module calls them: timm's and users' as well."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


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
    if not depthwise or not _lowered(input) or isinstance(padding, str):
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


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    **options: Any,  # noqa: ANN401 - torch's
) -> Tensor:
    """As torch's, in float32 if autocast would lower it."""
    if not _lowered(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        wide = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, **options)
    return wide.to(torch.get_autocast_dtype("cpu"))


def _batch_norm(input: Tensor, *arguments: Any, **options: Any) -> Tensor:  # noqa: A002, ANN401 - torch's
    """As torch's, with a gradient that is put in one piece before torch reads it."""
    answer = F.batch_norm(input, *arguments, **options)
    if _lowered(input) and answer.requires_grad and input.dim() == 4:
        last = answer.is_contiguous(memory_format=torch.channels_last)
        form = torch.channels_last if last else torch.contiguous_format
        answer.register_hook(partial(Tensor.contiguous, memory_format=form))  # type: ignore[no-untyped-call]
    return answer


def _lowered(given: Tensor) -> bool:
    return given.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


_REPLACED: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.scaled_dot_product_attention: _attention,
}
