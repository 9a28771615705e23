"""Fusion blocks: every row of the table, GELAN against D-FINE, and what folds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vectors
from flexdetr.config import BackboneConfig, ConfigError, EncoderConfig, build
from flexdetr.model.backbones import build_backbone
from flexdetr.model.csprep import CSPRepLayer, RepVggBlock
from flexdetr.model.encoder import HybridEncoder
from flexdetr.model.fuse import fuse
from flexdetr.model.fusion import FUSIONS, fusion
from flexdetr.model.gelan import Gelan
from flexdetr.model.ghost import GhostConv


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize(("width", "expansion", "depth"), [(32, 1.0, 1.0), (24, 0.5, 0.34), (20, 0.34, 0.67)])
def test_every_row(
    name: str, width: int, expansion: float, depth: float, randomise: Callable[..., nn.Module]
) -> None:
    """Runs forward and backward at the widths of presets and odd ones, and fuses."""
    config = EncoderConfig(width=width, heads=4, fusion=name, expansion=expansion, depth=depth)
    way = fusion(name)
    fine, coarse = torch.randn(2, 1, width, 6, 10, dtype=torch.float64).unbind(0)
    parts = (way.block(config, way.joined(width, width), width), way.lateral(width), way.downsample(width))
    shapes = [(6, 10), (6, 10), (3, 5)]
    inputs = [fine + coarse if way.summed else torch.cat([fine, coarse], 1), fine, fine]
    for part, shape, x in zip(parts, shapes, inputs, strict=True):
        part = randomise(part).double()
        out = part(x.clone().requires_grad_())
        assert out.shape == (1, width, *shape)
        if isinstance(part, nn.Identity):  # no lateral convolution
            continue
        out.square().sum().backward()
        assert all(parameter.grad is not None for parameter in part.parameters())
        fused = fuse(part.eval())
        want = part(x)
        assert (fused(x) - want).abs().max() <= 1e-10 * want.abs().max()
        assert not [each for each in fused.modules() if isinstance(each, nn.BatchNorm2d)]


def test_ghost_is_light_and_gelan_between() -> None:
    config = EncoderConfig(width=128)
    sizes = {name: parameters(fusion(name).block(config, 256, 128)) for name in FUSIONS}
    assert sizes["ghost"] < 0.4 * sizes["csprep"]
    assert sizes["gelan"] < sizes["csprep"]


def test_lean_leaves_the_3x3_convolutions_out() -> None:
    config = EncoderConfig(width=128)
    sizes = [
        parameters(fusion(name).block(config, fusion(name).joined(128, 128), 128))
        for name in ("gelan", "gelan_sum", "gelan_lean")
    ]
    # One input of D channels less; then two 3x3 convolutions with their norms.
    assert sizes[0] - sizes[1] == 128 * 256
    assert sizes[1] - sizes[2] == 2 * (64 * 64 * 9 + 2 * 64)


def test_gelan_has_d_fines_size() -> None:
    """D-FINE-N: d 128, expansion 0.34, depth 0.5: hidden width 21 and two blocks (golden/dfine_n.keys.tsv)."""
    config = EncoderConfig(width=128, fusion="gelan", expansion=0.34, depth=0.5)
    block = fusion("gelan").block(config, 256, 128)
    assert isinstance(block, Gelan)
    assert tuple(block.project.conv.weight.shape) == (128, 298, 1, 1)
    assert [len(step[0].bottlenecks) for step in block.steps] == [2, 2]


def test_repvgg_becomes_one_convolution(randomise: Callable[..., nn.Module]) -> None:
    block = randomise(RepVggBlock(8)).eval()
    fused = block.fuse()
    assert [type(part) for part in fused.modules() if not list(part.children())].count(nn.Conv2d) == 1
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-5, atol=1e-5)
    assert parameters(fused) == 8 * 8 * 9 + 8


@pytest.mark.parametrize(("out", "projected"), [(16, True), (8, False)])
def test_csprep_projects_where_the_width_changes(out: int, projected: bool) -> None:
    layer = CSPRepLayer(12, out, 8, 2)
    assert isinstance(layer.conv3, nn.Identity) is not projected
    assert layer(torch.randn(1, 12, 4, 4)).shape == (1, out, 4, 4)


def test_ghost_convolution_of_an_odd_width() -> None:
    assert GhostConv(6, 7)(torch.randn(1, 6, 4, 5)).shape == (1, 7, 4, 5)


_D_FINE = (
    (r"^lateral_convs\.", "lateral."),
    (r"^fpn_blocks\.", "top_down."),
    (r"^pan_blocks\.", "bottom_up."),
    (r"^down_sample1\.1\.", "made.0.1.conv."),
    (r"^down_sample1\.2\.", "made.0.1.norm."),
    (r"^down_sample2\.1\.", "downsample.0.1.conv."),
    (r"^down_sample2\.2\.", "downsample.0.1.norm."),
    (r"^bi_fusion\.cv\.", "intra.conv."),
    (r"^fpn_block\.", "top_down.0."),
    (r"^pan_block\.", "bottom_up.0."),
    (r"^downsample_convs\.(\d)\.0\.cv1\.", r"downsample.\1.0."),
    (r"^downsample_convs\.(\d)\.0\.cv2\.", r"downsample.\1.1."),
    (r"\.cv1\.", ".split."),
    (r"\.cv2\.(\d)\.", r".steps.0.\1."),
    (r"\.cv3\.(\d)\.", r".steps.1.\1."),
    (r"\.cv4\.", ".project."),
    (r"^encoder\.0\.layers\.", "intra.layers."),
    (r"\.self_attn\.out_proj\.", ".attention.output."),
    (r"\.linear(\d)\.", r".feed_forward.linear\1."),
)
_PACKED = re.compile(r"(.*)\.self_attn\.in_proj_(weight|bias)$")
_BACKBONE = ((r"\.bn\.", ".norm."),)


def renamed(
    state: dict[str, np.ndarray], prefix: str, rules: tuple[tuple[str, str], ...]
) -> dict[str, Tensor]:
    """The part of D-FINE's state below ``prefix``, under our names."""
    ours = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        for pattern, place in rules:
            name = re.sub(pattern, place, name)
        tensor = torch.from_numpy(np.array(value))
        if packed := _PACKED.match(name):
            cut = 2 * len(tensor) // 3
            ours[f"{packed[1]}.attention.query_key.{packed[2]}"] = tensor[:cut]
            ours[f"{packed[1]}.attention.value.{packed[2]}"] = tensor[cut:]
        else:
            ours[name] = tensor
    return ours


# Name of the case, backbone, encoder, and its parameters in FACTS.md, section 9c.
ENCODERS = {
    "dfine_n": ("hgnetv2_b0", {"width": 128, "ffn": 512, "fusion": "gelan"}, 703_824),
    "deimv2_n": ("hgnetv2_b0", {"width": 128, "ffn": 512, "fusion": "gelan_sum"}, 638_288),
    "deimv2_atto": ("hgnetv2_atto", {"width": 64, "fusion": "lite", "intra": "gap"}, 80_400),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_published_encoders(case: str, golden: ModuleType) -> None:
    state = golden.checkpoint(case)
    name, options, count = ENCODERS[case]
    config = EncoderConfig(strides=(16, 32), expansion=0.34, depth=0.5, **options)
    backbone = build_backbone(BackboneConfig(name=name), config.backbone_strides)
    encoder = HybridEncoder(backbone.channels, config)
    assert parameters(encoder) == count
    backbone.load_state_dict(renamed(state, "backbone.", _BACKBONE))
    encoder.load_state_dict(renamed(state, "encoder.", _D_FINE))
    expected, limit = golden.expected(case), golden.cases()[case]["tolerance"]["features_relative"]
    parts = nn.Sequential(backbone, encoder).eval()
    with torch.no_grad():
        images = torch.from_numpy(golden.inputs(case))
        for form in (parts, fuse(parts)):
            features = form[0](images)
            levels = form[1](features)
            for part, maps, strides in (
                ("backbone", features, config.backbone_strides),
                ("encoder", levels, config.strides),
            ):
                for stride, level in zip(strides, maps, strict=True):
                    want = expected[f"{part}.stride{stride}.sketch"]
                    error = np.abs(golden.sketch(level.numpy()) - want).max() / np.abs(want).max()
                    assert error <= limit, (part, stride)


@pytest.mark.parametrize(
    ("cut", "width", "of_backbone", "of_encoder"),
    [
        ("atto", 64, 230_344, 80_400),
        ("femto", 96, 389_832, 196_352),
        ("pico", 112, 749_202, 258_976),
    ],
)
def test_sizes_of_deimv2s_smallest(cut: str, width: int, of_backbone: int, of_encoder: int) -> None:
    config = EncoderConfig(
        strides=(16, 32), width=width, expansion=0.34, depth=0.5, fusion="lite", intra="gap"
    )
    backbone = build_backbone(BackboneConfig(name=f"hgnetv2_{cut}"), config.backbone_strides)
    assert parameters(backbone) == of_backbone
    assert parameters(HybridEncoder(backbone.channels, config)) == of_encoder


@pytest.mark.parametrize(("size", "depth"), [("n", 0.34), ("s", 0.34), ("m", 0.67), ("l", 1.0), ("x", 1.0)])
def test_pan_c2f_has_yolov8s_size(size: str, depth: float) -> None:
    """On the backbone's own channels, with the same constants in every batch norm."""
    row = json.loads((vectors.HERE / "yolov8_counts.json").read_text(encoding="utf-8"))["sizes"][size]
    channels = [row["channels"][f"stride{stride}"] for stride in (8, 16, 32)]
    config = EncoderConfig(fusion="pan_c2f", project=False, intra="none", depth=depth)
    with torch.device("meta"):
        encoder = HybridEncoder(channels, config)
        levels = encoder([torch.zeros(1, c, s, s) for c, s in zip(channels, (8, 4, 2), strict=True)])
    assert parameters(encoder) == row["trainable"]["neck"]
    assert encoder.channels == tuple(channels)
    assert [tuple(level.shape) for level in levels] == [
        (1, c, s, s) for c, s in zip(channels, (8, 4, 2), strict=True)
    ]
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize("name", [name for name, row in FUSIONS.items() if row.own_widths])
def test_levels_of_their_own_widths(name: str) -> None:
    config = EncoderConfig(fusion=name, project=False, intra="sppf", depth=0.34)
    encoder = HybridEncoder([8, 10, 14], config)
    levels = encoder([torch.randn(2, c, s, s) for c, s in zip((8, 10, 14), (8, 4, 2), strict=True)])
    assert [level.shape[1] for level in levels] == [8, 10, 14]


def test_aifi_needs_one_width() -> None:
    with pytest.raises(ConfigError, match=r"set encoder\.project=true, or encoder\.intra=sppf"):
        build({"encoder": {"project": False}})


@pytest.mark.parametrize("name", [name for name, row in FUSIONS.items() if not row.own_widths])
def test_sums_need_one_width(name: str) -> None:
    with pytest.raises(ConfigError, match=f"fusion={name} needs levels of one width"):
        build({"encoder": {"fusion": name, "project": False, "intra": "none"}})
