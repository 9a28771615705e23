from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexdetr.model.blocks import (
    ConvAct,
    ConvBNAct,
    LearnableAffineBlock,
    LightConvBNAct,
    Shift,
    biased_conv,
    fold_identity,
    fold_norm,
    init_weights,
    pad_kernel,
)


def randomise(module: nn.Module) -> nn.Module:
    """Weights and statistics as after training, in float64 and evaluation mode."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        if isinstance(part, LearnableAffineBlock):
            nn.init.normal_(part.bias)
    return module.double().eval()


def assert_same(module: nn.Module, fused: nn.Module, channels: int) -> None:
    x = torch.randn(2, channels, 9, 12, dtype=torch.float64)
    want = module(x)
    torch.testing.assert_close(fused(x), want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


@pytest.mark.parametrize("act", ["relu", "silu", "gelu", None])
@pytest.mark.parametrize("scale", [None, 1.3, -0.7, 0.0])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "padding"),
    [(3, 1, 1, None), (3, 2, 8, None), (1, 1, 2, None), ((1, 5), 1, 8, None), (2, 1, 1, 0)],
)
def test_conv_fuses(act, scale, kernel, stride, groups, padding):
    module = ConvBNAct(8, 16, kernel, stride, groups, act, use_lab=scale is not None, padding=padding)
    randomise(module)
    if scale is not None:
        nn.init.constant_(module.lab.scale, scale)
    before = copy.deepcopy(module.state_dict())
    assert_same(module, module.fuse(), 8)
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_fused_forms_are_as_simple_as_they_can_be():
    conv = randomise(ConvBNAct(4, 4, 3, act=None, use_lab=True)).fuse()
    assert isinstance(conv, nn.Conv2d)
    relu = randomise(ConvBNAct(4, 4, 3, use_lab=True)).fuse()
    assert isinstance(relu, ConvAct)
    assert isinstance(relu.lab, Shift)
    negative = ConvBNAct(4, 4, 3, use_lab=True)
    nn.init.constant_(negative.lab.scale, -1)
    assert isinstance(randomise(negative).fuse().lab, LearnableAffineBlock)
    assert isinstance(randomise(ConvBNAct(4, 4, 3)).fuse().lab, nn.Identity)


def test_fused_form_is_for_inference():
    fused = ConvBNAct(4, 4, 3, use_lab=True).fuse()
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_fused_conv_keeps_type_and_device():
    fused = ConvBNAct(4, 4, 3, act=None).to(torch.bfloat16).fuse()
    assert fused.weight.dtype == fused.bias.dtype == torch.bfloat16


def test_names():
    names = [name for name, _ in ConvBNAct(4, 4, 3, use_lab=True).named_children()]
    assert names == ["conv", "norm", "act", "lab"]
    keys = set(ConvBNAct(4, 4, 3).state_dict())
    assert keys == {
        "conv.weight",
        *(f"norm.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }


def test_light_layer_has_one_activation():
    layer = LightConvBNAct(6, 8, 5, use_lab=True)
    assert isinstance(layer.conv1.act, nn.Identity)
    assert isinstance(layer.conv1.lab, nn.Identity)
    assert layer.conv2.conv.groups == 8
    assert layer(torch.randn(1, 6, 7, 9)).shape == (1, 8, 7, 9)


def test_affine_block_keeps_the_type_of_its_input():
    block = LearnableAffineBlock()
    nn.init.constant_(block.scale, 2)
    nn.init.constant_(block.bias, 1)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(block(x), 2 * x + 1)
    assert block(x.bfloat16()).dtype == torch.bfloat16
    block(x).sum().backward()
    torch.testing.assert_close(block.scale.grad, x.sum()[None])
    torch.testing.assert_close(block.bias.grad, torch.tensor([48.0]))


def test_affine_block_keeps_the_memory_format():
    x = torch.randn(2, 8, 5, 7).to(memory_format=torch.channels_last)
    assert LearnableAffineBlock()(x).is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    groups=st.sampled_from([1, 2, 4]),
    channels=st.sampled_from([4, 8]),
)
def test_identity_norm_is_a_convolution(kernel, groups, channels):
    norm = nn.BatchNorm2d(channels)
    randomise(norm)
    like = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, dtype=torch.float64)
    assert_same(norm, biased_conv(*fold_identity(norm, kernel, groups), like), channels)


def test_padded_kernel_is_the_same_convolution():
    small = nn.Conv2d(4, 4, 1, bias=False, dtype=torch.float64)
    norm = randomise(nn.BatchNorm2d(4))
    weight, bias = fold_norm(small.weight, norm)
    large = biased_conv(pad_kernel(weight, 5), bias, nn.Conv2d(4, 4, 5, padding=2, dtype=torch.float64))
    assert_same(nn.Sequential(small, norm), large, 4)


def test_norm_without_statistics_is_refused():
    with pytest.raises(ValueError, match="without running statistics"):
        fold_norm(torch.zeros(4, 4, 1, 1), nn.BatchNorm2d(4, track_running_stats=False))


def test_initial_outputs_have_the_size_of_inputs():
    """Depthwise or dense: a layer's variance before the norm is twice its input's (half goes in the ReLU)."""
    torch.manual_seed(0)
    for groups in (1, 64):
        layer = ConvBNAct(64, 64, 3, groups=groups)
        init_weights(layer)
        deviation = layer.conv(torch.randn(2, 64, 32, 32)).std().item()
        assert 1.2 < deviation < 1.6
