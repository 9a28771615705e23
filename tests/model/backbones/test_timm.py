from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from flexdetr.config import BackboneConfig, ConfigError
from flexdetr.model.backbones import build_backbone
from flexdetr.model.backbones.timm import TimmFeatures
from flexdetr.model.fuse import fuse

# One small member of each family; those of the second list run with `make test-slow`.
QUICK = [
    "resnet10t",
    "convnext_atto",
    "mobilenetv3_small_050",
    "regnetx_002",
    "repvgg_a0",  # folds
    "fastvit_t8",  # folds
    "vit_tiny_patch16_224",  # plain
    "eva02_tiny_patch14_224",  # plain, patches of 14
    "mambaout_femto",  # channels-last
    "pvt_v2_b0",
    "efficientvit_b0",
    "edgenext_xx_small",
]
SLOW = [
    "efficientnet_b0", "mobilenetv4_conv_small_050", "mobileone_s0", "ghostnet_050", "ghostnetv2_100",
    "ghostnetv3_050", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "davit_tiny", "focalnet_tiny_srf",
    "hrnet_w18_small", "dla46_c", "res2net50_14w_8s", "rexnet_100", "repvit_m0_9", "tinynet_e", "hardcorenas_a",
    "mobilenetv2_050", "hgnetv2_b0", "poolformer_s12", "caformer_s18", "inception_next_atto", "mobilevit_xxs",
    "cspresnet50", "ese_vovnet19b_dw", "densenet121", "dpn48b", "selecsls42", "skresnet18", "lcnet_050",
    "tf_efficientnetv2_b0", "twins_svt_small", "starnet_s1", "rdnet_tiny", "swiftformer_xs", "tiny_vit_5m_224",
    "xception41", "xcit_nano_12_p8_224", "vit_tiny_r_s16_p8_224", "vit_small_patch16_dinov3", "convmixer_768_32",
]  # fmt: skip
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def build(name, strides=(8, 16, 32), inserts=None, **options):
    return build_backbone(BackboneConfig(name=f"timm/{name}", options=options), strides, inserts or {})


def test_enough_families():
    assert len({*QUICK, *SLOW}) >= 25


@pytest.mark.parametrize("name", FAMILIES)
def test_any_model_that_extracts_features_is_a_backbone(name):
    torch.manual_seed(0)
    backbone = build(name)
    images = torch.rand(2, 3, 96, 64)
    levels = backbone.train()(images)
    assert [tuple(x.shape) for x in levels] == [
        (2, channels, math.ceil(96 / stride), math.ceil(64 / stride))
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]
    sum(x.square().mean() for x in levels).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]
    backbone.double().eval()
    with torch.no_grad():
        want = backbone(images.double())
        again = copy.deepcopy(backbone)(images.double())
        fused = fuse(backbone)(images.double())
    for x, y, z in zip(want, again, fused, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(z, x, rtol=0, atol=1e-9 * x.abs().max().item())


@pytest.mark.parametrize(("name", "branched"), [("repvgg_a0", True), ("mobileone_s0", True)])
def test_folds_what_timm_can_fold(name, branched):
    backbone = build(name, (8, 16)).eval()
    assert isinstance(backbone.body, TimmFeatures)
    fused = backbone.body.fuse()
    assert branched == (len(list(fused.modules())) < len(list(backbone.body.modules())))
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in backbone.body.parameters())
    assert any(
        isinstance(part, nn.BatchNorm2d) for part in backbone.modules()
    )  # the trained form is as it was


def test_normalisation_is_the_models_own():
    with torch.device("meta"):
        assert build("resnet10t").mean == (0.485, 0.456, 0.406)
        assert build("vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        ("efficientvit_m0", (8, 16, 32), r"strides 16, 32, 64.*encoder.strides=\[16, 32\]"),
        ("beit_base_patch16_224", (8, 16, 32), "built for one image size.*img_size"),
        (
            "inception_v3",
            (8, 16, 32),
            "strides must be powers of two and maps the image's size divided by them",
        ),
        ("mobilevitv2_050", (8, 16, 32), "its map of stride 32 is 4x6 for an image of 96x160"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(name, strides, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build(name, strides)


def test_a_model_of_one_image_size_works_at_that():
    with torch.device("meta"):
        backbone = build("mixer_s32_224", img_size=(64, 96)).eval()
        levels = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[2:]) for x in levels] == [(8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["convnext_atto", "mambaout_femto", "mobilenetv3_small_050", "pvt_v2_b0"])
def test_inserts(name):
    """In a copy too: each network runs its own."""
    torch.manual_seed(0)
    backbone = build(name, inserts={16: "se"}).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        other = copy.deepcopy(backbone)
        for key, parameter in other.named_parameters():
            if key.endswith("expand.bias"):
                parameter += 5 * ("attention_insert" in key)
        after, same = other(images), backbone(images)
    assert torch.equal(before[0], after[0])
    assert all((x - y).abs().max() > 1e-5 for x, y in zip(before[1:], after[1:], strict=True))
    assert all(torch.equal(x, y) for x, y in zip(before, same, strict=True))


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("vit_tiny_patch16_224", 16, "no feature map that an attention insert could change"),
        ("densenet121", 8, "a DenseBlock runs its children"),
        ("hrnet_w18_small", 8, "does not fit"),
        ("resnet10t", 64, "runs no stage of stride 64; it has 2, 4, 8, 16, 32"),
    ],
)
def test_inserts_that_cannot_be_placed_are_refused(name, stride, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build(name, inserts={stride: "se"})


@pytest.mark.parametrize(
    ("name", "stem", "stage"),
    [
        ("resnet10t", "net.bn1.bias", "net.layer1.0.bn2.bias"),
        ("convnext_atto", "net.stem_1.bias", "net.stages_0.blocks.1.mlp.fc2.bias"),
        ("mobilenetv3_small_050", "net.bn1.bias", "net.blocks.0.0.bn2.bias"),
        ("efficientvit_b0", "net.stem_res0.main.point_conv.norm.bias", None),
    ],
)
def test_freezing_ends_where_the_stage_does(name, stem, stage):
    with torch.device("meta"):
        backbone = build(name, inserts={4: "se"})
    backbone.freeze(stem=True)
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen[-1] == f"body.{stem}"
    backbone.freeze(stages=1)
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    assert stage is None or frozen[-1] == f"body.{stage}"
    assert not [key for key in frozen if "insert" in key]


def test_a_plain_network_has_no_stages_to_freeze():
    with torch.device("meta"):
        backbone = build("vit_tiny_patch16_224")
    backbone.freeze(stem=True)
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen[-1] == "body.net.model.patch_embed.proj.bias"
    assert "body.net.model.pos_embed" in frozen
    with pytest.raises(ConfigError, match="a plain network without stages"):
        backbone.freeze(stages=1)


def test_golden_mobilenetv1(golden):
    case = "timm_mobilenetv1_100"
    backbone = build("mobilenetv1_100", (2, 4, 8, 16, 32)).eval()
    checkpoint = load(backbone, golden, case)
    for form in (backbone, fuse(backbone)):
        with torch.inference_mode():
            levels = form(torch.from_numpy(golden.inputs(case)))
        assert_sketches(golden, case, levels)
        logits = (
            levels[-1].mean((2, 3)).numpy() @ checkpoint["classifier.weight"].T
            + checkpoint["classifier.bias"]
        )
        assert_logits(golden, case, logits)


def test_golden_ghostnet(golden):
    case = "timm_ghostnet_100"
    backbone = build("ghostnet_100", (2, 4, 8, 16, 32), taps="timm").eval()
    load(backbone, golden, case)
    images = torch.from_numpy(golden.inputs(case))
    with torch.inference_mode():
        assert_sketches(golden, case, backbone(images))

    last = build("ghostnet_100").eval()  # taps the last block of each stride, and so has all of them
    checkpoint = {key: torch.from_numpy(value) for key, value in load(last, golden, case).items()}
    head = [
        checkpoint[f"blocks.9.0.bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    ]
    for form in (last, fuse(last)):
        with torch.inference_mode():
            x = nn.functional.conv2d(form(images)[-1], checkpoint["blocks.9.0.conv.weight"])
            x = nn.functional.batch_norm(x, *head).relu().mean((2, 3), keepdim=True)
            x = nn.functional.conv2d(x, checkpoint["conv_head.weight"], checkpoint["conv_head.bias"]).relu()
            logits = x.flatten(1) @ checkpoint["classifier.weight"].T + checkpoint["classifier.bias"]
        assert_logits(golden, case, logits.numpy())


def load(backbone, golden, case):
    """Puts a timm classifier's weights in the extractor; returns all of them."""
    checkpoint = golden.checkpoint(case)
    ours = backbone.state_dict()
    state = {}
    for key, value in checkpoint.items():
        for name in (f"body.net.{key}", f"body.net.{key.replace('.', '_', 1)}"):
            if name in ours:
                state[name] = torch.from_numpy(np.array(value))
    assert set(state) == set(ours)
    backbone.load_state_dict(state)
    return checkpoint


def assert_sketches(golden, case, levels):
    expected, limit = golden.expected(case), golden.cases()[case]["tolerance"]["features_relative"]
    for stride, level in zip((2, 4, 8, 16, 32), levels, strict=True):
        want = expected[f"stride{stride}.sketch"]
        assert np.abs(golden.sketch(level.numpy()) - want).max() / np.abs(want).max() <= limit


def assert_logits(golden, case, logits):
    limit = golden.cases()[case]["tolerance"]["logits"]
    assert np.abs(logits - golden.expected(case)["logits"]).max() <= limit
