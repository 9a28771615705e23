"""Depthwise convolutions of a training step: the same answers, with gradients as of float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flexdetr.engine.depthwise import training_autocast
from flexdetr.engine.device import autocast

CPU = torch.device("cpu")


def gradients(conv: nn.Module, x: Tensor, context: object) -> tuple[Tensor, list[Tensor]]:
    """The answer, and the gradients of the input and of the parameters."""
    own = x.clone().requires_grad_()
    for parameter in conv.parameters():
        parameter.grad = None
    with context:
        answer = conv(own)
    answer.float().square().sum().backward()
    return answer, [own.grad, *(parameter.grad for parameter in conv.parameters())]


@settings(max_examples=20, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    padding=st.integers(0, 2),
    dilation=st.sampled_from([1, 2]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_depthwise_gradients_are_nearer_to_float32_than_autocast_s(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=bias)
    x = torch.randn(2, 6, 13, 11).contiguous(memory_format=torch.channels_last)
    _, exact = gradients(conv, x, autocast(CPU, torch.float32))
    plain, rounded = gradients(conv, x, autocast(CPU, torch.bfloat16))
    answer, ours = gradients(conv, x, training_autocast(CPU, torch.bfloat16))
    torch.testing.assert_close(answer, plain, rtol=0.02, atol=0.02)
    assert answer.dtype == plain.dtype
    for name, own, other, true in zip(("input", "weight", "bias"), ours, rounded, exact, strict=False):
        assert own.dtype == true.dtype
        scale = float(true.abs().max())
        assert float((own - true).abs().max()) <= float((other - true).abs().max()) + 0.01 * scale, name


def test_float32_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 4, 3, groups=4), torch.randn(1, 4, 8, 8)
    (one, first), (two, second) = (
        gradients(conv, x, context(CPU, torch.float32)) for context in (autocast, training_autocast)
    )
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
    ],
    ids=["dense", "grouped", "multiplied", "named padding"],
)
def test_other_convolutions_are_torch_s_own(conv: nn.Module) -> None:
    x = torch.randn(1, 4, 8, 8)
    (one, first), (two, second) = (
        gradients(conv, x, context(CPU, torch.bfloat16)) for context in (autocast, training_autocast)
    )
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_part_that_leaves_autocast_computes_in_float32() -> None:
    conv, x = nn.Conv2d(4, 4, 3, groups=4), torch.randn(1, 4, 8, 8)
    with training_autocast(CPU, torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert conv(x).dtype == torch.float32
        assert torch.equal(conv(x), torch.conv2d(x, conv.weight, conv.bias, groups=4))
