"""Cross-scale fusion: what the hybrid encoder puts between two levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from torch import nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.csprep import CSPRepLayer
from flexdetr.model.gelan import Gelan, separable_downsample
from flexdetr.model.ghost import GhostLayer, ghost_downsample


class Fusion(NamedTuple):
    """One way of fusing levels.

    Attributes:
        block: the encoder's section -> fusion block, (B, 2D, h, w) -> (B, D, h, w), on two concatenated levels.
        lateral: width D -> the 1x1 convolution before a level is raised.
        downsample: width D -> the stride-2 step of the bottom-up path.
    """

    block: Callable[[EncoderConfig], nn.Module]
    lateral: Callable[[int], nn.Module]
    downsample: Callable[[int], nn.Module]


def _blocks(config: EncoderConfig) -> int:
    """Blocks in a row: the published three times the depth, and never none."""
    return max(1, round(3 * config.depth))


def _csprep(config: EncoderConfig) -> nn.Module:
    return CSPRepLayer(2 * config.width, config.width, int(config.width * config.expansion), _blocks(config))


def _gelan(config: EncoderConfig) -> nn.Module:
    width = config.width
    return Gelan(2 * width, width, 2 * width, round(config.expansion * width // 2), _blocks(config))


def _ghost(config: EncoderConfig) -> nn.Module:
    return GhostLayer(2 * config.width, config.width, int(config.width * config.expansion), _blocks(config))


def _lateral(width: int) -> nn.Module:
    return ConvBNAct(width, width, 1, act="silu")


def _linear_lateral(width: int) -> nn.Module:
    return ConvBNAct(width, width, 1, act=None)


def _downsample(width: int) -> nn.Module:
    return ConvBNAct(width, width, 3, stride=2, act="silu")


FUSIONS: Final[Mapping[str, Fusion]] = {
    "csprep": Fusion(_csprep, _lateral, _downsample),
    "gelan": Fusion(_gelan, _linear_lateral, separable_downsample),
    "ghost": Fusion(_ghost, _lateral, ghost_downsample),
}
