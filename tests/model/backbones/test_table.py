"""Every row of the table keeps the contract, so that a new row is tested the moment it exists."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from flexdetr.config import BackboneConfig, ConfigError
from flexdetr.model.backbones import BACKBONES, build_backbone
from flexdetr.model.fuse import fuse

# Trained for a step here; the others share their code and only differ in size.
SMALL = {
    "hgnet_tiny",
    "hgnetv2_atto",
    "hgnetv2_femto",
    "hgnetv2_pico",
    "hgnetv2_b0",
    "hgnetv2_s",
    "hgnetv2_l",
    "ghostnetv3_050",
    "resnet18_vd",
    "resnet50_vd",
    "cspdarknet_c2f_n",
    "ghostnet_050",
    "mobilenetv1_100",
    "efficientnet_lite0",
}


def build(name, strides=(8, 16, 32), inserts=None, **options):
    return build_backbone(BackboneConfig(name=name, options=options), strides, inserts or {})


@pytest.mark.parametrize("name", BACKBONES)
def test_says_what_it_returns(name):
    """Channels and strides, square and odd, on the meta device, where only shapes are computed."""
    with torch.device("meta"):
        backbone = build(name).eval()
        for height, width in ((64, 64), (75, 101)) if name in SMALL else ((75, 101),):
            levels = backbone(torch.zeros(1, 3, height, width))
            want = [
                (1, channels, math.ceil(height / stride), math.ceil(width / stride))
                for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
            ]
            assert [tuple(x.shape) for x in levels] == want
    assert backbone.strides == (8, 16, 32)
    assert len(backbone.mean) == len(backbone.std) == 3
    assert 0 < backbone.lr_mult <= 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in BACKBONES]
)
def test_trains_every_parameter_on_a_batch_of_one(name):
    torch.manual_seed(0)
    backbone = build(name, inserts={16: "ese"}).train()
    levels = backbone(torch.rand(1, 3, 96, 128).to(memory_format=torch.channels_last))
    sum(x.square().mean() for x in levels).backward()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())
    rates = backbone.lr_multipliers()
    assert set(rates) <= {name for name, _ in backbone.named_parameters()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in BACKBONES]
)
def test_copies_saves_loads_and_fuses(name):
    torch.manual_seed(0)
    backbone = build(name).double().eval()
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.running_mean, std=0.1)
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    other = build(name).double().eval()
    other.load_state_dict(copy.deepcopy(backbone).state_dict())
    with torch.no_grad():
        want = backbone(images)
        for again in (other(images), copy.deepcopy(backbone)(images)):
            assert all(torch.equal(x, y) for x, y in zip(want, again, strict=True))
        fused = fuse(backbone)(images)
    for x, y in zip(fused, want, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10 * y.abs().max().item())


@pytest.mark.parametrize("name", ["hgnetv2_b0", "ghostnetv3_050", "resnet18_vd", "mobilenetv1_100"])
def test_leaves_out_what_no_level_needs(name):
    with torch.device("meta"):
        whole, part = build(name, (8, 16, 32)), build(name, (8, 16))
    assert part.channels == whole.channels[:2]
    assert sum(p.numel() for p in part.parameters()) < 0.9 * sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("name", ["hgnetv2_atto", "ghostnetv3_050", "resnet18_vd", "ghostnet_050"])
def test_inserts_feed_the_next_stage_and_the_encoder(name):
    torch.manual_seed(0)
    backbone = build(name, inserts={8: "se"}).eval()
    images = torch.rand(1, 3, 64, 64)
    inserts = [
        part for key, part in backbone.named_modules() if key.endswith(("inserts.8", "attention_insert"))
    ]
    assert len(inserts) == 1
    with torch.no_grad():
        before = backbone(images)
        inserts[0].expand.bias += 5
        after = backbone(images)
    assert all((x - y).abs().max() > 1e-4 * x.abs().max() for x, y in zip(before, after, strict=True))


def test_an_insert_before_the_first_level():
    with torch.device("meta"):
        keys = build("hgnetv2_b0", (16, 32), {4: "ema", 32: "simam"}).state_dict()
    assert any(key.startswith("inserts.4.") for key in keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hgnetv2_b", "did you mean 'hgnetv2_b"),
        ("resnet18", "did you mean 'timm/resnet18'"),
        ("timm/convnext_ato", "did you mean timm/convnext_atto"),
        ("timm/hf_hub:somebody/model", "timm has no model"),
    ],
)
def test_a_typo_gets_the_nearest_names(name, message):
    with pytest.raises(ConfigError, match=message):
        build(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hgnetv2_b0", {"use_labs": True}, "did you mean 'use_lab'"),
        ("hgnet_tiny", {"depth": 3}, "it has none"),
        ("timm/resnet18", {"depht": 3}, "depht"),
    ],
)
def test_a_wrong_option_is_refused(name, options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build(name, **options)


def test_options_and_rates_reach_the_part():
    with torch.device("meta"):
        backbone = build_backbone(
            BackboneConfig(name="hgnetv2_b0", options={"use_lab": False}, lr_mult=0.3), (8, 16, 32)
        )
    assert backbone.lr_mult == 0.3
    assert backbone.lr_multipliers() == {}


@pytest.mark.parametrize("name", ["hgnetv2_atto", "mobilenetv1_100"])
def test_freezing(name):
    backbone = build(name, inserts={8: "se"})
    backbone.freeze(stem=True, stages=0, norms=False)
    stem = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert stem
    backbone.freeze(stem=False, stages=2, norms=True)
    backbone.train()
    frozen = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert stem < frozen
    assert not [key for key in frozen if "insert" in key]  # inserts are new and have to learn
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    before = copy.deepcopy(backbone.state_dict())
    levels = backbone(torch.rand(1, 3, 64, 64))
    sum(x.sum() for x in levels).backward()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert learning
    assert all(parameter.grad is not None for parameter in learning)


def test_frozen_norms_stay_frozen_in_copies_and_as_synchronised_norms():
    backbone = build("hgnetv2_atto", (8, 16))
    backbone.freeze(norms=True)
    for other in (copy.deepcopy(backbone), nn.SyncBatchNorm.convert_sync_batchnorm(backbone)):
        other.train()
        norms = [part for part in other.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert not any(norm.training for norm in norms)


def test_too_many_frozen_stages():
    with torch.device("meta"):
        backbone = build("hgnetv2_atto", (8, 16))
    with pytest.raises(ConfigError, match="freeze_stages=4: hgnetv2_atto runs 3 stages"):
        backbone.freeze(stages=4)
