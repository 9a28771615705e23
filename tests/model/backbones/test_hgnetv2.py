from __future__ import annotations

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.model.backbones.hgnetv2 import StemBlock, hgnetv2
from flexdetr.model.fuse import fuse

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("b0", 1_850_396),
        ("b1", 2_197_004),
        ("b2", 6_026_626),
        ("b3", 10_048_910),
        ("b4", 13_553_376),
        ("b5", 33_325_760),
        ("b6", 69_013_472),
        ("atto", 230_344),
        ("femto", 389_832),
        ("pico", 749_202),
    ],
)
def test_is_as_large_as_published(variant, parameters):
    cut = variant in ("atto", "femto", "pico")
    with torch.device("meta"):
        backbone = hgnetv2(variant, strides=STRIDES[:3] if cut else STRIDES, inserts={})
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_affine_blocks_can_be_left_out():
    with torch.device("meta"):
        trained = hgnetv2("b1", strides=STRIDES, inserts={}, use_lab=False)
    assert not any("lab" in name for name, _ in trained.named_parameters())


@pytest.mark.parametrize(
    ("case", "variant", "pool_padding", "coarsest"),
    [
        ("paddleclas_hgnetv2_b0", "b0", "paddle", 1024),
        ("timm_hgnetv2_b0", "b0", "zero", 1024),
        ("paddleclas_hgnetv2_b4", "b4", "zero", 2048),
    ],
)
def test_golden(
    case, variant, pool_padding, coarsest, golden, load_reference, assert_golden, classifier_type
):
    backbone = hgnetv2(variant, strides=STRIDES, inserts={}, pool_padding=pool_padding)
    model = classifier_type(backbone, coarsest, use_lab=variant == "b0")
    load_reference(case, model)
    model.eval()
    images = torch.from_numpy(golden.inputs(case))
    for form in (model, fuse(model)):
        with torch.inference_mode():
            logits, levels = form(images)
        assert_golden(
            case, {"logits": logits, **{f"stride{s}": x for s, x in zip(STRIDES, levels, strict=True)}}
        )


def test_pool_paddings_differ_at_the_edge_only_where_the_affine_block_goes_below_zero():
    torch.manual_seed(0)
    zero, paddle = (StemBlock(8, 8, True, padding).eval() for padding in ("zero", "paddle"))
    paddle.load_state_dict(zero.state_dict())
    images = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(zero(images), paddle(images), rtol=0, atol=0)
    for stem in (zero, paddle):
        torch.nn.init.constant_(stem.stem1.lab.bias, -1)
    changed = (zero(images) - paddle(images)).abs().amax((0, 1)) > 0
    assert changed[-1].any()
    assert changed[:, -1].any()
    assert not changed[:-1, :-1].any()


def test_affine_blocks_learn_slowly():
    backbone = hgnetv2("atto", strides=(8, 16), inserts={}, stage_lr=(0.0, 0.1, 1.0, 1.0))
    rates = backbone.lr_multipliers()
    assert set(rates) <= {name for name, _ in backbone.named_parameters()}
    assert rates["stages.1.blocks.0.layers.0.lab.scale"] == 0.01
    assert rates["stages.0.blocks.0.layers.0.lab.scale"] == pytest.approx(0.001)
    assert rates["stages.0.blocks.0.layers.0.conv.weight"] == 0.1
    assert rates["stem.stem1.conv.weight"] == 0
    assert "stages.1.downsample.conv.weight" not in rates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_padding": "same"}, "pool_padding"),
        ({"stage_lr": (0.0, 1.0)}, "stage_lr needs 5 rates"),
        ({"strides": (2, 4)}, "has feature maps at strides 4, and a level of stride 2 cannot be made"),
        ({"inserts": {2: "se"}}, "runs no stage of stride 2; it has 4, 8, 16, 32"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        hgnetv2("b0", **{"strides": STRIDES, "inserts": {}, **options})


def test_state_dict_names():
    keys = set(hgnetv2("atto", strides=(8, 16), inserts={16: "se"}).state_dict())
    assert {
        "stem.stem1.conv.weight",
        "stem.stem1.norm.running_mean",
        "stem.stem1.lab.scale",
        "stages.0.blocks.0.layers.1.conv.weight",
        "stages.1.downsample.conv.weight",
        "stages.2.blocks.0.layers.1.conv1.conv.weight",
        "stages.2.blocks.0.aggregation.0.conv.weight",
        "stages.2.blocks.0.aggregation.1.norm.weight",
        "inserts.16.reduce.weight",
    } <= keys
