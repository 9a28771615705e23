from __future__ import annotations

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.model.backbones.levels import LevelFit


def maps_of(channels, strides, side=64):
    return [torch.randn(1, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)]


def test_picks_by_stride_without_a_parameter():
    fit = LevelFit((8, 16, 24), (4, 8, 16), (8, 16), "net")
    maps = maps_of((8, 16, 24), (4, 8, 16))
    levels = fit(maps)
    assert [x is y for x, y in zip(levels, maps[1:], strict=True)] == [True, True]
    assert fit.channels == (16, 24)
    assert not list(fit.parameters())


def test_takes_the_last_of_maps_with_one_stride():
    assert LevelFit((8, 16, 24, 32), (8, 16, 16, 32), (8, 16, 32), "net").taken == (0, 2, 3)


def test_makes_coarser_levels_one_from_the_other():
    fit = LevelFit((8, 16), (8, 16), (16, 32, 64), "net")
    assert fit.taken == (1, 1, -1)
    assert fit.channels == (16, 16, 16)
    assert [x.shape[-1] for x in fit.eval()(maps_of((8, 16), (8, 16)))] == [4, 2, 1]
    assert {name.split(".")[1] for name, _ in fit.named_parameters()} == {"32", "64"}


def test_makes_a_pyramid_of_a_plain_network():
    fit = LevelFit((32, 32), (16, 16), (4, 8, 16, 32), "vit", plain=True)
    levels = fit(maps_of((32, 32), (16, 16)))
    assert fit.channels == tuple(x.shape[1] for x in levels) == (8, 16, 32, 32)
    assert [x.shape[-1] for x in levels] == [16, 8, 4, 2]
    sum(x.sum() for x in levels).backward()
    assert all(parameter.grad is not None for parameter in fit.parameters())


@pytest.mark.parametrize(
    ("strides", "wanted", "advice"),
    [
        ((16, 32, 64), (8, 16, 32), r"encoder.strides=\[16, 32\]"),
        ((4, 16), (4, 8, 16), "stride 8 cannot be made"),
        ((16,), (8, 16), "stride 8 cannot be made"),
        ((4, 8), (2, 4), "stride 2 cannot be made"),
    ],
)
def test_does_not_invent_detail(strides, wanted, advice):
    with pytest.raises(ConfigError, match=advice):
        LevelFit([8] * len(strides), strides, wanted, "net")
