"""The hybrid encoder: its rows, its levels, and what flows where."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.encoder import HybridEncoder
from flexdetr.model.fusion import FUSIONS
from flexdetr.model.inserts import build_insert
from flexdetr.model.intra import INTRA

CHANNELS = {4: 8, 8: 10, 16: 12, 32: 14, 64: 16}


def features(strides: tuple[int, ...], height: int = 64, width: int = 96) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, CHANNELS[each], -(-height // each), -(-width // each)) for each in strides]


def encoder(
    strides: tuple[int, ...] = (8, 16, 32), inserts: bool = False, **options: object
) -> HybridEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(strides=strides, width=16, heads=4, ffn=24, depth=0.34, **options)
    placed = {strides[-1]: build_insert("ema", 16)} if inserts else None
    return HybridEncoder([CHANNELS[each] for each in config.backbone_strides], config, placed)


@pytest.mark.parametrize("intra", INTRA)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("strides", [(32,), (16, 32), (8, 16, 32), (4, 8, 16, 32), (16, 32, 64)])
def test_every_row_keeps_the_levels_sizes(intra: str, fusion: str, strides: tuple[int, ...]) -> None:
    given = features(strides)
    module = encoder(strides, intra=intra, fusion=fusion)
    levels = module(given[: len(module.input_proj)])
    assert [level.shape for level in levels] == [(2, 16, *each.shape[2:]) for each in given]
    sum(level.square().mean() for level in levels).backward()
    assert not [name for name, parameter in module.named_parameters() if parameter.grad is None]


def test_published_order_of_steps(randomise: Callable[..., nn.Module]) -> None:
    """Top-down on laterals, bottom-up on the laterals' outputs, written out for three levels."""
    module = randomise(encoder()).eval()
    given = features((8, 16, 32))
    with torch.no_grad():
        fine, middle, coarse = (project(x) for project, x in zip(module.input_proj, given, strict=True))
        coarse = module.lateral[0](module.intra(coarse))
        middle = module.lateral[1](
            module.top_down[0](torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1))
        )
        first = module.top_down[1](torch.cat([F.interpolate(middle, scale_factor=2), fine], 1))
        second = module.bottom_up[0](torch.cat([module.downsample[0](first), middle], 1))
        third = module.bottom_up[1](torch.cat([module.downsample[1](second), coarse], 1))
        for got, want in zip(module(given), (first, second, third), strict=True):
            torch.testing.assert_close(got, want)


def test_lite_makes_its_levels_from_the_finest(randomise: Callable[..., nn.Module]) -> None:
    """DEIMv2's LiteEncoder, written out: means of 3x3 cells with padding counted, the level's mean, sums."""
    module = randomise(encoder((16, 32), fusion="lite", intra="gap")).eval()
    (given,) = features((16,))
    with torch.no_grad():
        fine = module.input_proj[0](given)
        padded = F.pad(fine, (1, 1, 1, 1))
        coarse = module.made[0][1](
            sum(padded[..., i : i + 4 : 2, j : j + 6 : 2] for i in range(3) for j in range(3)) / 9
        )
        coarse = module.intra.conv(coarse + coarse.mean((2, 3), keepdim=True))
        first = module.top_down[0](fine + F.interpolate(coarse, scale_factor=2))
        second = module.bottom_up[0](coarse + module.downsample[0](first))
        for got, want in zip(module([given]), (first, second), strict=True):
            torch.testing.assert_close(got, want)


def test_deimv2_takes_a_level_of_its_width_as_it_is() -> None:
    config = EncoderConfig(width=16, heads=4, fusion="gelan_sum")
    kinds = [type(part) for part in HybridEncoder([16, 32, 64], config).input_proj]
    assert kinds == [nn.Identity, ConvBNAct, ConvBNAct]
    assert isinstance(encoder().input_proj[0], ConvBNAct)


def test_an_insert_changes_its_level_only() -> None:
    plain, changed = encoder(), encoder(inserts=True)
    changed.load_state_dict(plain.state_dict(), strict=False)
    given = features((8, 16, 32))
    with torch.no_grad():
        levels = zip(plain.eval()(given), changed.eval()(given), strict=True)
        assert [bool((a == b).all()) for a, b in levels] == [True, True, False]
