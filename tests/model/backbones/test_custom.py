from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from flexdetr.config import BackboneConfig, ConfigError
from flexdetr.model.backbones import build_backbone


class ThreeConvs(nn.Module):
    """The smallest backbone there is: it says nothing about itself."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.steps = nn.ModuleList(nn.Conv2d(width << i, width << (i + 1), 3, 2, 1) for i in range(3))

    def forward(self, images):
        maps = [self.stem(images)]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return maps[1:]


class Described(ThreeConvs):
    channels = (16, 32, 64)
    strides = (8, 16, 32)
    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)
    lr_mult = 0.2

    @property
    def stage_modules(self):
        return {8: "steps.0", 16: "steps.1", 32: "steps.2"}

    def lr_multipliers(self):
        return {"stem.weight": 0.5}


def test_an_object_that_says_nothing():
    module = ThreeConvs()
    backbone = build_backbone(module, (8, 16, 32))
    assert backbone.body is module
    assert backbone.channels == (16, 32, 64)
    assert (backbone.mean, backbone.std, backbone.lr_mult) == ((0, 0, 0), (1, 1, 1), 1)
    assert [tuple(x.shape) for x in backbone(torch.zeros(2, 3, 64, 96))] == [
        (2, 16, 8, 12),
        (2, 32, 4, 6),
        (2, 64, 2, 3),
    ]
    assert build_backbone(ThreeConvs(), (16, 32, 64)).channels == (32, 64, 64)


def test_what_it_says_is_taken():
    backbone = build_backbone(Described(), (8, 16, 32), {16: "eca"})
    assert (backbone.mean, backbone.std, backbone.lr_mult) == ((0.5,) * 3, (0.25,) * 3, 0.2)
    assert backbone.lr_multipliers() == {"body.stem.weight": 0.5}
    assert "body.steps.1.attention_insert.conv.weight" in backbone.state_dict()
    backbone.freeze(stages=1)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"body.stem.weight", "body.stem.bias", "body.steps.0.weight", "body.steps.0.bias"}


def test_a_mapping_of_maps():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = ThreeConvs()

        def forward(self, images):
            return dict(zip("abc", self.body(images), strict=True))

    assert build_backbone(Named(), (8, 16)).channels == (16, 32)


def test_building_leaves_modes_and_statistics_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.BatchNorm2d(4))
    module[1].eval()

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, images):
            return [self.module(images)]

    build_backbone(Holder(), (8,))
    assert module.training
    assert not module[1].training
    assert module[1].num_batches_tracked == 0


@pytest.fixture
def my_package(monkeypatch):
    module = types.ModuleType("my_backbones")
    module.three_convs = lambda width=8: ThreeConvs(width)
    module.wrong = lambda: "resnet"
    monkeypatch.setitem(sys.modules, "my_backbones", module)


def test_a_name_with_options(my_package):
    config = BackboneConfig(name="my_backbones:three_convs", options={"width": 4}, lr_mult=0.5)
    backbone = build_backbone(config, (8, 16, 32))
    assert backbone.channels == (8, 16, 32)
    assert backbone.lr_mult == 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my_backbone:three_convs", {}, "cannot import 'my_backbone'"),
        ("my_backbones:three_conv", {}, "did you mean 'three_convs'"),
        ("my_backbones:three_convs", {"depth": 1}, "does not take backbone.options"),
        ("my_backbones:wrong", {}, "must return an nn.Module; it returned str"),
    ],
)
def test_names_that_do_not_work(my_package, name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(BackboneConfig(name=name, options=options), (8, 16))


def returning(output):
    class Returning(nn.Module):
        def forward(self, images):
            return output(images)

    return Returning()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (returning(lambda x: x), "must return a list of feature maps; this one returned Tensor"),
        (returning(lambda x: [x.mean((2, 3))]), r"this one returned one of shape \(1, 3\)"),
        (returning(lambda _: []), "must return feature maps"),
        (returning(lambda x: [nn.functional.avg_pool2d(x, 3)]), "divided by a power of two"),
        (
            returning(lambda x: [nn.functional.avg_pool2d(x, 16), x[:, :, ::32, ::32]]),
            "stride 8 cannot be made",
        ),
    ],
)
def test_modules_that_do_not_work(module, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(module, (8, 16))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("channels", (1, 2, 3), r"says channels \(1, 2, 3\), but its feature maps have \(16, 32, 64\)"),
        ("strides", (4, 8, 16), r"says strides \(4, 8, 16\)"),
        ("mean", (0.5, 0.5), "mean must be three numbers"),
    ],
)
def test_what_it_says_is_checked(attribute, value, message):
    module = ThreeConvs()
    setattr(module, attribute, value)
    with pytest.raises(ConfigError, match=message):
        build_backbone(module, (8, 16, 32))


def test_inserts_and_freezing_need_to_know_the_stages():
    with pytest.raises(ConfigError, match=r"stage_modules, like \{16: 'layer2'\}"):
        build_backbone(ThreeConvs(), (8, 16, 32), {16: "se"})
    backbone = build_backbone(ThreeConvs(), (8, 16, 32))
    backbone.freeze(norms=True)
    with pytest.raises(ConfigError, match="does not say where its stem and stages end"):
        backbone.freeze(stem=True)


def test_an_insert_that_runs_twice_is_refused():
    class Shared(Described):
        def forward(self, images):
            first = super().forward(images)
            return [(x + y) / 2 for x, y in zip(first, super().forward(images), strict=True)]

    with pytest.raises(ConfigError, match="does not call it once"):
        build_backbone(Shared(), (8, 16, 32), {16: "se"})


def test_the_example_of_the_documentation():
    """torchvision's feature extractors return mappings."""
    from torchvision.models import mobilenet_v3_small
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = ["features.3", "features.8", "features.12"]
    backbone = build_backbone(create_feature_extractor(mobilenet_v3_small(), nodes), (8, 16, 32))
    assert backbone.channels == (24, 48, 576)
