"""ResNet-vd 18, 34, 50, 101 (1812.01187): a stem of three convolutions, strides on 3x3, pooled shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.backbones.trunk import Stage, Trunk
from flexdetr.model.blocks import ConvBNAct


class Shortcut(nn.Module):
    """The projection beside a stage's first block: an average pool where the stage halves the size, then 1x1."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.pool: nn.Module = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.proj = ConvBNAct(channels, out, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        return self.proj(self.pool(x))


class ResidualBlock(nn.Module):
    """A basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) block.

    Args:
        channels: of the input.
        width: channels inside.
        stride: of the (first) 3x3 convolution.
        bottleneck: which of the two; a bottleneck's output has four times ``width`` channels.
        project: learn the shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool, project: bool) -> None:
        super().__init__()
        out = width * 4 if bottleneck else width
        if bottleneck:
            self.layers = nn.Sequential(
                ConvBNAct(channels, width, 1),
                ConvBNAct(width, width, 3, stride=stride),
                ConvBNAct(width, out, 1, act=None),
            )
        else:
            self.layers = nn.Sequential(
                ConvBNAct(channels, width, 3, stride=stride), ConvBNAct(width, out, 3, act=None)
            )
        self.shortcut: nn.Module = Shortcut(channels, out, stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up."""
        return F.relu(self.layers(x) + self.shortcut(x), inplace=True)


class _Variant(NamedTuple):
    bottleneck: bool
    blocks: tuple[int, int, int, int]
    lr_mult: float


RESNET_VD: dict[str, _Variant] = {
    "18": _Variant(False, (2, 2, 2, 2), 0.1),
    "34": _Variant(False, (3, 4, 6, 3), 0.1),
    "50": _Variant(True, (3, 4, 6, 3), 0.1),
    "101": _Variant(True, (3, 4, 23, 3), 0.01),
}


def resnet_vd(
    depth: str, *, strides: Sequence[int], inserts: Mapping[int, str], stage_lr: Sequence[float] = ()
) -> Trunk:
    """ResNet-vd.

    ``depth`` is "18", "34", "50" or "101"; ``strides`` are among 4, 8, 16, 32 (and coarser ones, which are
    made); for the others see ``Trunk``.

    Raises:
        ConfigError: if the depth is unknown or a level does not fit.
    """
    if depth not in RESNET_VD:
        raise ConfigError(nearest(depth, RESNET_VD, "ResNet-vd depth"))
    row = RESNET_VD[depth]
    stem = nn.Sequential(
        ConvBNAct(3, 32, 3, stride=2),
        ConvBNAct(32, 32, 3),
        ConvBNAct(32, 64, 3),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages, channels = [], 64
    for index, count in enumerate(row.blocks):
        width = 64 << index
        blocks = []
        for i in range(count):
            stride = 2 if index and not i else 1
            blocks.append(ResidualBlock(channels, width, stride, row.bottleneck, project=not i))
            channels = width * 4 if row.bottleneck else width
        stages.append(Stage(nn.Sequential(*blocks), channels, 4 << index))
    return Trunk(
        f"resnet{depth}_vd",
        stem,
        stages,
        strides=strides,
        inserts=inserts,
        lr_mult=row.lr_mult,
        stage_lr=stage_lr,
    )
