"""Layers of a training step under autocast on a CPU: the same answers, with gradients as near to float32 or nearer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flexdetr.engine.cpu_autocast import training_autocast
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


@pytest.mark.parametrize("masked", [None, "allowed", "added"])
def test_attention_is_nearer_to_float32_than_autocast_s(masked: str | None) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 17, 8) for _ in range(3)]
    outer = torch.randn(2, 3, 17, 8)
    allowed = torch.rand(17, 17) < 0.6
    allowed.fill_diagonal_(fill_value=True)
    added = torch.zeros(17, 17).masked_fill(~allowed, -torch.inf)
    mask = {None: None, "allowed": allowed, "added": added}[masked]

    def attend(context: object) -> list[Tensor]:
        own = [tensor.clone().requires_grad_() for tensor in given]
        with context:
            # Linear layers give narrow tensors, as in a model.
            narrow = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in own]
            answer = F.scaled_dot_product_attention(*narrow, attn_mask=mask)
        answer.backward(outer.to(answer.dtype))
        return [answer, *(tensor.grad for tensor in own)]

    exact_inputs = [tensor.clone().requires_grad_() for tensor in given]
    exact = F.scaled_dot_product_attention(*exact_inputs, attn_mask=mask)
    exact.backward(outer)
    true = [exact, *(tensor.grad for tensor in exact_inputs)]
    plain, ours = (attend(context(CPU, torch.bfloat16)) for context in (autocast, training_autocast))
    assert ours[0].dtype == plain[0].dtype == torch.bfloat16
    for own, other, wanted in zip(ours, plain, true, strict=True):
        near, far = (float((one - wanted).detach().abs().mean()) for one in (own, other))
        assert near <= 1.02 * far  # both are rounded to bf16 at the end
        assert near < 0.01 * float(wanted.detach().abs().max())


class _Watch(TorchDispatchMode):
    """Notes how the gradients lie that batch norms get."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten.native_batch_norm_backward.default:
            self.whole.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("inplace", [None, True, False])
def test_batch_norms_before_a_concatenation_get_whole_gradients(inplace: bool | None) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    after = nn.Identity() if inplace is None else nn.ReLU(inplace=inplace)
    x = torch.randn(2, 5, 6, 7).contiguous(memory_format=torch.channels_last)
    outer = torch.randn(2, 8, 6, 7).contiguous(memory_format=torch.channels_last)
    found, whole = [], []
    for context in (autocast, training_autocast):
        own = x.clone().requires_grad_()
        norm.zero_grad()
        with context(CPU, torch.bfloat16):
            joined = torch.cat([after(norm(own * 1)), x[:, :3]], 1)
        with _Watch() as watch:
            joined.backward(outer)
        found.append([joined, own.grad, *(parameter.grad.clone() for parameter in norm.parameters())])
        whole += watch.whole
    assert whole == [inplace is not None, True]
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


def test_batch_norms_without_gradients_are_torch_s_own() -> None:
    norm, x = nn.BatchNorm2d(3).requires_grad_(requires_grad=False), torch.randn(2, 3, 4, 4)
    with training_autocast(CPU, torch.bfloat16):
        answer = norm(x)
    assert not answer.requires_grad
