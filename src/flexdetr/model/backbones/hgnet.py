"""PP-HGNet (PaddleClas, 2022): three convolutions, then blocks that aggregate all their layers, with ESE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.attention import ESE
from flexdetr.model.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from flexdetr.model.backbones.trunk import Stage, Trunk
from flexdetr.model.blocks import ConvBNAct


class HGBlock(nn.Module):
    """Layers in a row whose outputs are all aggregated, with the block's input.

    Args:
        layers: each maps the one before's output.
        aggregation: from the input and all outputs, concatenated, to the block's output.
        residual: add the block's input to its output.
    """

    def __init__(self, layers: Iterable[nn.Module], aggregation: nn.Module, residual: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.aggregation = aggregation
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        out = self.aggregation(torch.cat(maps, 1))
        return out + x if self.residual else out


class HGStage(nn.Module):
    """A learnable down-sampling (a depthwise convolution without activation), then blocks."""

    def __init__(self, channels: int, downsample: bool, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.downsample: nn.Module = (
            ConvBNAct(channels, channels, 3, stride=2, groups=channels, act=None)
            if downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2) or (B, C', H, W)."""
        return self.blocks(self.downsample(x))


class _Variant(NamedTuple):
    stem: tuple[int, int, int]
    layers: int
    stages: tuple[tuple[int, int, int], ...]  # (channels inside a block, of its output, number of blocks)


HGNET: dict[str, _Variant] = {
    "tiny": _Variant((48, 48, 96), 5, ((96, 224, 1), (128, 448, 1), (160, 512, 2), (192, 768, 1))),
    "small": _Variant((64, 64, 128), 6, ((128, 256, 1), (160, 512, 1), (192, 768, 2), (224, 1024, 1))),
    "base": _Variant((96, 96, 160), 7, ((192, 320, 1), (224, 640, 2), (256, 960, 3), (288, 1280, 2))),
}


def hgnet(variant: str, *, strides: Sequence[int], inserts: Mapping[int, str]) -> Trunk:
    """PP-HGNet.

    ``variant`` is "tiny", "small" or "base"; ``strides`` are among 4, 8, 16, 32 (and coarser ones, which are
    made); for ``inserts`` see ``Trunk``.

    Raises:
        ConfigError: if the variant is unknown or a level does not fit.
    """
    if variant not in HGNET:
        raise ConfigError(nearest(variant, HGNET, "PP-HGNet variant"))
    row = HGNET[variant]
    widths = (3, *row.stem)
    stem = nn.Sequential(
        *(ConvBNAct(widths[i], widths[i + 1], 3, stride=2 if i == 0 else 1) for i in range(3)),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages, channels = [], row.stem[-1]
    for index, (inner, out, blocks) in enumerate(row.stages):
        parts = [_block(channels if i == 0 else out, inner, out, row.layers, i > 0) for i in range(blocks)]
        stages.append(Stage(HGStage(channels, index > 0, parts), out, 4 << index))
        channels = out
    return Trunk(
        f"hgnet_{variant}",
        stem,
        stages,
        strides=strides,
        inserts=inserts,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _block(channels: int, inner: int, out: int, layers: int, residual: bool) -> HGBlock:
    return HGBlock(
        (ConvBNAct(channels if i == 0 else inner, inner, 3) for i in range(layers)),
        nn.Sequential(ConvBNAct(channels + layers * inner, out, 1), ESE(out)),
        residual,
    )
