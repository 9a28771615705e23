"""YOLOv8's backbone: its published sizes, its layers, and what runs for coarser levels."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import vectors
from flexdetr.config import BackboneConfig, ConfigError
from flexdetr.model.backbones import Trunk, build_backbone
from flexdetr.model.backbones.cspdarknet_c2f import CSPDARKNET_C2F, cspdarknet_c2f
from flexdetr.model.c2f import Bottleneck
from flexdetr.model.pooled import SPPF


def build(size: str, strides: tuple[int, ...] = (8, 16, 32)) -> Trunk:
    return cspdarknet_c2f(size, strides=strides, inserts={})


@pytest.mark.parametrize("size", CSPDARKNET_C2F)
def test_has_the_published_size(size: str) -> None:
    row = json.loads((vectors.HERE / "yolov8_counts.json").read_text(encoding="utf-8"))["sizes"][size]
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=f"cspdarknet_c2f_{size}"), (4, 8, 16, 32))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == row["trainable"]["backbone"]
    with_statistics = row["kerascv"].get("backbone_with_statistics")
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    assert row["trainable"]["backbone"] + sum(2 * norm.num_features for norm in norms) == with_statistics
    assert list(backbone.channels) == [row["channels"][f"stride{stride}"] for stride in (4, 8, 16, 32)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_pools_on_the_coarsest_stage_only() -> None:
    pools = [name for name, part in build("n").named_modules() if isinstance(part, SPPF)]
    assert pools == ["stages.3.2"]
    assert not [part for part in build("n", (8, 16)).modules() if isinstance(part, SPPF)]


def test_a_bottleneck_adds_its_input_in_the_backbone() -> None:
    assert all(part.shortcut for part in build("n").modules() if isinstance(part, Bottleneck))
    block = Bottleneck(4, shortcut=True).eval()
    nn.init.zeros_(block.conv2.norm.weight)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(block(x), x)
    block.shortcut = False
    assert not block(x).any()


def test_an_unknown_size_gets_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown size of cspdarknet_c2f"):
        build("b")
