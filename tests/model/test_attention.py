from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flexdetr.model.attention import CBAM, ECA, EMA, ESE, SE, CoordinateAttention, SimAM
from flexdetr.model.inserts import INSERTS, build_insert


@pytest.mark.parametrize("name", INSERTS)
@pytest.mark.parametrize("channels", [40, 64, 112])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (8, 8)])
def test_keeps_the_shape_and_learns(name, channels, size):
    torch.manual_seed(0)
    insert = build_insert(name, channels)
    x = torch.randn(2, channels, *size, requires_grad=True)
    out = insert(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in insert.parameters())
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", INSERTS)
def test_batch_of_one_is_the_same_as_in_a_batch(name):
    torch.manual_seed(0)
    insert = build_insert(name, 32).eval()
    x = torch.randn(3, 32, 6, 4)
    torch.testing.assert_close(insert(x)[1:2], insert(x[1:2]))


@pytest.mark.parametrize("name", INSERTS)
def test_channels_last_is_the_same(name):
    torch.manual_seed(0)
    insert = build_insert(name, 32).eval()
    x = torch.randn(2, 32, 6, 4)
    torch.testing.assert_close(insert(x.to(memory_format=torch.channels_last)), insert(x))


def test_ema_by_its_definition():
    """The paper's figure 3, group by group with explicit loops."""
    torch.manual_seed(0)
    module = EMA(64).double()
    nn.init.normal_(module.norm.weight)
    nn.init.normal_(module.norm.bias)
    x = torch.randn(2, 64, 5, 7, dtype=torch.float64)
    groups, width = 32, 2
    want = torch.empty_like(x)
    for image in range(2):
        for group in range(groups):
            part = x[image, group * width : (group + 1) * width]  # (2, 5, 7)
            rows, columns = part.mean(2), part.mean(1)  # (2, 5), (2, 7)
            kernel = module.conv1.weight[:, :, 0, 0]
            gate_rows = torch.sigmoid(kernel @ rows + module.conv1.bias[:, None])
            gate_columns = torch.sigmoid(kernel @ columns + module.conv1.bias[:, None])
            gated = part * gate_rows[:, :, None] * gate_columns[:, None, :]
            mean, variance = gated.mean((1, 2)), gated.var((1, 2), unbiased=False)
            first = (gated - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
            first = first * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
            second = nn.functional.conv2d(part[None], module.conv3.weight, module.conv3.bias, padding=1)[0]
            weight = torch.zeros(5, 7, dtype=torch.float64)
            for a, b in ((first, second), (second, first)):
                share = torch.softmax(a.mean((1, 2)), 0)
                weight = weight + (share[:, None, None] * b).sum(0)
            want[image, group * width : (group + 1) * width] = part * torch.sigmoid(weight)
    torch.testing.assert_close(module(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "factor"), [(64, 32), (40, 20), (112, 28), (48, 24), (7, 7)])
def test_ema_takes_32_groups_or_the_next_divisor(channels, factor):
    assert EMA(channels).factor == factor


def test_ema_refuses_a_factor_that_does_not_divide():
    with pytest.raises(ValueError, match="factor 32 does not divide 40 channels"):
        EMA(40, factor=32)


def test_ese_and_se_by_their_definition():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 3, 4)
    pooled = x.mean((2, 3))
    ese = ESE(16)
    want = x * torch.sigmoid(pooled @ ese.conv.weight[:, :, 0, 0].T + ese.conv.bias)[..., None, None]
    torch.testing.assert_close(ese(x), want)
    for gate, function in (("sigmoid", torch.sigmoid), ("hard_sigmoid", lambda v: ((v + 3).clamp(0, 6)) / 6)):
        se = SE(16, 4, gate)
        hidden = (pooled @ se.reduce.weight[:, :, 0, 0].T + se.reduce.bias).relu()
        weights = function(hidden @ se.expand.weight[:, :, 0, 0].T + se.expand.bias)
        torch.testing.assert_close(se(x), x * weights[..., None, None])


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)])
def test_eca_kernel_follows_the_channels(channels, size):
    assert ECA(channels).conv.kernel_size == (size,)
    assert size % 2 == 1
    assert abs(size - (math.log2(channels) + 1) / 2) <= 1.5


def test_eca_looks_at_neighbouring_channels_only():
    module = ECA(64)
    x = torch.rand(1, 64, 2, 2)
    changed = x.clone()
    changed[:, 10] += 5
    moved = ((module(changed) / changed) - (module(x) / x)).abs().amax((0, 2, 3)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [9, 10, 11]


def test_cbam_by_its_definition():
    torch.manual_seed(0)
    module = CBAM(32)
    x = torch.randn(1, 32, 8, 9)

    def shared(v):
        return module.expand(module.reduce(v).relu())

    average, maximum = nn.AdaptiveAvgPool2d(1)(x), nn.AdaptiveMaxPool2d(1)(x)
    x1 = x * torch.sigmoid(shared(average) + shared(maximum))
    maps = torch.stack([x1.mean(1), x1.max(1).values], 1)
    torch.testing.assert_close(module(x), x1 * torch.sigmoid(module.spatial(maps)))


def test_coordinate_attention_gates_rows_and_columns():
    torch.manual_seed(0)
    module = CoordinateAttention(16).eval()
    x = torch.rand(1, 16, 6, 9) + 0.5
    ratio = module(x) / x
    # a product of a column vector and a row vector has rank 1, in each channel
    outer = ratio[..., :1] * ratio[..., :1, :] / ratio[..., :1, :1]
    torch.testing.assert_close(ratio, outer)


def test_simam_by_its_definition():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 5)
    distance = (x - x.mean((2, 3), keepdim=True)) ** 2
    variance = x.var((2, 3), keepdim=True)  # n - 1
    want = x * torch.sigmoid(distance / (4 * (variance + 1e-4)) + 0.5)
    torch.testing.assert_close(SimAM(3)(x), want)
    assert not list(SimAM(3).parameters())
