"""Narrow layers: a configuration's table makes them, and says what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flexdetr.config import Config, ConfigError, build
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.detector import DetectionModel
from flexdetr.model.pruned import differing, narrow, take
from flexdetr.presets import resolve


def small(**changes: Any) -> Config:
    encoder = {"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4}
    head = {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0}
    return resolve(
        "flexdetr_atto", backbone="hgnetv2_atto", encoder=encoder, head=head, image_size=64, **changes
    )


@pytest.fixture(scope="module")
def whole() -> DetectionModel:
    return DetectionModel(small(), 3).eval()


def test_a_table_makes_a_detector_narrow_and_is_found_again(whole: DetectionModel) -> None:
    table = {
        "backbone.stem.stem1.conv": (8, 3),
        "backbone.stem.stem1.norm": (8,),
        "backbone.stem.stem2a.conv": (8, 8),
        "backbone.stem.stem3.conv": (16, 24),
    }
    config = build(small().model_dump() | {"pruned": table})
    model = DetectionModel(config, 3).eval()
    assert differing(model, whole) == table
    assert model.backbone.get_submodule("stem.stem1.norm").running_mean.shape == (8,)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).final.logits.shape == (1, 20, 3)
    assert config == build(config.model_dump(mode="json")), "a configuration survives being written"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"backbone.stem.stem9.conv": (8, 3)}, r"did you mean 'backbone\.stem\.stem\d\.conv'"),
        ({"backbone.stem.stem1": (8,)}, "this is a ConvBNAct"),
        ({"backbone.stem.stem1.conv": (17, 3)}, r"has \[16, 3\] channels, and \[17, 3\]"),
        ({"backbone.stem.stem1.conv": (0, 3)}, r"\[0, 3\] is not part"),
        ({"backbone.stem.stem1.conv": (8,)}, r"\[8\] is not part"),
    ],
    ids=str,
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DetectionModel(build(small().model_dump() | {"pruned": table}), 3)


def test_a_depthwise_convolution_keeps_a_group_for_each_channel() -> None:
    block = ConvBNAct(8, 8, 3, groups=8).eval()
    x = torch.rand(1, 8, 5, 5)
    expected = block(x)[:, [1, 6]]
    for layer in (block.conv, block.norm):
        take(layer, 0, torch.tensor([1, 6]))
    torch.testing.assert_close(block(x[:, [1, 6]]), expected)
    assert (block.conv.groups, block.conv.in_channels, block.conv.out_channels) == (2, 2, 2)


def test_a_convolution_in_groups_is_left_alone() -> None:
    with pytest.raises(ConfigError, match="without groups"):
        narrow(nn.Sequential(nn.Conv2d(8, 8, 3, groups=2)), {"0": (4, 4)})
