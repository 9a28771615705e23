"""A first layer for other channels, made of RGB weights."""

from __future__ import annotations

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.model.backbones import BACKBONES
from flexdetr.model.detector import DetectionModel
from flexdetr.model.input_layer import adapt_input, adapted_weight
from flexdetr.presets import resolve


def levels(model: DetectionModel, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return model.eval().backbone(model.normalise(images))


def model_of(channels: int, **changes: object) -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(resolve("flexdetr_pico", image_size=64, data={"channels": channels}, **changes), 2)


def test_grey_answers_exactly_as_grey_shown_as_rgb_did():
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    grey = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 9, 9), weight)
    assert torch.allclose(torch.nn.functional.conv2d(grey, adapted_weight(weight, 1)), expected)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_channels_that_are_alike_answer_as_alike_colours_did(channels):
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    weight[:, 1:] = weight[:, :1]  # else the colours' different weights count differently often
    grey = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(grey.expand(1, 3, 9, 9), weight)
    found = torch.nn.functional.conv2d(grey.expand(1, channels, 9, 9), adapted_weight(weight, channels))
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(
    "name", ["hgnetv2_atto", "hgnet_tiny", "ghostnetv3_050", "resnet18_vd", "cspdarknet_c2f_n"]
)
def test_backbones_of_every_kind_take_other_channels(name):
    assert name in BACKBONES
    model = model_of(5, backbone=name)
    found = levels(model, torch.randint(0, 256, (1, 5, 64, 64), dtype=torch.uint8))
    assert all(torch.isfinite(one).all() for one in found)
    assert model.get_parameter(model.input_weight).shape[1] == 5
    assert len(model.mean) == len(model.std) == 5


def test_a_backbone_of_timm_takes_other_channels():
    model = model_of(1, backbone="mobilenetv1_100")
    assert levels(model, torch.zeros(1, 1, 64, 64, dtype=torch.uint8))
    assert len(model.mean) == 1


def test_rgb_stays_as_it_was():
    model = model_of(3)
    assert model.input_weight == ""
    assert len(model.mean) == 3


def test_a_module_without_one_layer_for_rgb_is_refused():
    twins = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)])
    with pytest.raises(ConfigError, match="this one has 2"):
        adapt_input(twins, 4)
