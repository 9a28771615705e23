from __future__ import annotations

import pytest
import torch
from torch import nn

from flexdetr.config import ConfigError
from flexdetr.model.backbones.ghostnetv3 import BranchedConv, divisible, ghostnetv3
from flexdetr.model.fuse import fuse

STRIDES = (4, 8, 16, 32)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("variant", "trained", "folded"),
    [
        ("050", 3_395_384, 2_853_176),
        ("100", 8_129_028, 6_147_588),
        pytest.param("130", 12_217_720, 8_948_296, marks=pytest.mark.slow),
        pytest.param("160", 17_275_700, 12_377_778, marks=pytest.mark.slow),
    ],
)
def test_is_as_large_as_published_in_both_forms(variant, trained, folded, classifier_type):
    """With the published classifier, whose 1x1 convolution has six times the last stage's width."""
    backbone = ghostnetv3(variant, strides=STRIDES, inserts={})
    model = classifier_type(backbone, backbone.channels[-1], ghost=True).eval()
    assert count(model) == trained
    fused = fuse(model)
    # The reference folds the branches only; the deploy form folds every norm, which takes one vector from
    # each.
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    branched = [name for name, part in model.named_modules() if isinstance(part, BranchedConv)]
    single = [name for name in norms if not any(name.startswith(f"{prefix}.") for prefix in branched)]
    vectors = sum(model.get_submodule(name).num_features for name in single)
    assert count(fused) + vectors == folded


def keep(module, outputs, name):
    module.register_forward_hook(lambda _, __, out: outputs.__setitem__(name, out))


@pytest.mark.parametrize("case", ["huawei_ghostnetv3_100", "timm_ghostnetv3_100"])
def test_golden(case, golden, load_reference, assert_golden, classifier_type):
    model = classifier_type(ghostnetv3("100", strides=STRIDES, inserts={}), 160, ghost=True)
    load_reference(case, model)
    model.eval()
    images = torch.from_numpy(golden.inputs(case))
    for form, logits_name in ((model, "logits"), (fuse(model), "logits_folded")):
        firsts = {}
        if case.startswith("timm"):  # taps the first block of each stride
            stages = form.backbone.stages
            for index, stride in ((1, 4), (2, 8), (3, 16), (4, 32)):
                keep(stages[index][0], firsts, f"stride{stride}")
        with torch.inference_mode():
            logits, levels = form(images)
        maps = firsts or {f"stride{s}": x for s, x in zip(STRIDES, levels, strict=True)}
        assert_golden(case, {logits_name: logits, **maps})


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "groups", "branches"),
    [(8, 12, 1, 1, 1, 3), (12, 12, 3, 1, 12, 5), (12, 12, 5, 2, 12, 4), (12, 12, 1, 1, 1, 4)],
)
def test_branches_fold_into_one_convolution(channels, out, kernel, stride, groups, branches):
    torch.manual_seed(0)
    module = BranchedConv(channels, out, kernel, stride, groups, act="relu")
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == branches
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    module.double().eval()
    x = torch.randn(2, channels, 9, 8, dtype=torch.float64)
    want = module(x)
    fused = module.fuse()
    torch.testing.assert_close(fused(x), want, rtol=1e-10, atol=1e-10 * want.max().item())
    assert isinstance(fused.conv, nn.Conv2d)
    assert isinstance(BranchedConv(8, 8, 1).fuse(), nn.Conv2d)


def test_an_untrained_network_stays_in_range():
    torch.manual_seed(0)
    with torch.no_grad():
        levels = ghostnetv3("050", strides=STRIDES, inserts={}).eval()(torch.rand(1, 3, 64, 64))
    assert all(1e-3 < x.abs().max() < 1e3 for x in levels)


def test_the_smallest_images():
    """32 pixels leave one position at stride 32, which the attention's pool cannot halve."""
    with torch.device("meta"):
        levels = ghostnetv3("050", strides=STRIDES, inserts={}).eval()(torch.zeros(1, 3, 32, 64))
    assert [tuple(x.shape[2:]) for x in levels] == [(8, 16), (4, 8), (2, 4), (1, 2)]


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(8, 8), (1, 4), (18, 20), (20.8, 20), (52.5, 52), (30, 32), (145.6, 144), (5.9, 8)],
)
def test_channels_are_divisible(channels, rounded):
    assert divisible(channels) == rounded


def test_unknown_width():
    with pytest.raises(ConfigError, match="GhostNetV3 width"):
        ghostnetv3("1.0", strides=STRIDES, inserts={})


def test_it_can_be_traced_which_openvino_does() -> None:
    backbone = fuse(ghostnetv3("050", strides=STRIDES, inserts={}).eval())
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        traced = torch.jit.trace(backbone, x, check_trace=False)(x)
        for one, other in zip(traced, backbone(x), strict=True):
            torch.testing.assert_close(one, other)
