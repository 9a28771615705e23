from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from flexdetr.config import ConfigError
from flexdetr.model.backbones.resnet_vd import resnet_vd

STRIDES = (8, 16, 32)


@pytest.mark.parametrize(
    ("depth", "parameters", "norms"),
    [("18", 11_199_968, None), ("34", None, None), ("50", None, 53_248), ("101", None, 105_472)],
)
def test_is_as_large_as_published(depth, parameters, norms):
    """RT-DETR counts the whole of 18, and the norms of 50 and 101 that it freezes."""
    with torch.device("meta"):
        backbone = resnet_vd(depth, strides=STRIDES, inserts={})
    if parameters is not None:
        assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    found = sum(
        parameter.numel()
        for part in backbone.modules()
        if isinstance(part, nn.BatchNorm2d)
        for parameter in part.parameters()
    )
    assert norms is None or found == norms


def our_name(key: str) -> str:
    """lyuwenyu's name of a backbone's tensor as ours."""
    key = re.sub(r"^conv1\.conv1_(\d)\.", lambda m: f"stem.{int(m[1]) - 1}.", key)
    key = re.sub(r"^res_layers\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2.", key)
    key = re.sub(r"\.branch2([abc])\.", lambda m: f".layers.{'abc'.index(m[1])}.", key)
    return re.sub(r"\.short\.(?:conv\.)?(conv|norm)\.", r".shortcut.proj.\1.", key)


@pytest.mark.parametrize("case", ["lyuwenyu_rtdetr_r18vd"])
def test_golden(case, golden, assert_golden):
    backbone = resnet_vd("18", strides=STRIDES, inserts={})
    state = {
        our_name(key.removeprefix("backbone.")): torch.from_numpy(value)
        for key, value in golden.checkpoint(case).items()
        if key.startswith("backbone.")
    }
    backbone.load_state_dict(state)
    backbone.eval()
    with torch.inference_mode():
        levels = backbone(torch.from_numpy(golden.inputs(case)))
    assert_golden(case, {f"backbone.stride{s}": x for s, x in zip(STRIDES, levels, strict=True)})


def test_unknown_depth():
    with pytest.raises(ConfigError, match="ResNet-vd depth"):
        resnet_vd("19", strides=STRIDES, inserts={})
