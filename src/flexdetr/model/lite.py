"""The lite encoder of DEIMv2's smallest models (2509.20787): one level of the backbone, and another made from it."""

from __future__ import annotations

from torch import nn

from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.fusion import Fusion
from flexdetr.model.gelan import sum_block


def pooled_downsample(width: int) -> nn.Module:
    """The mean of 3x3 cells with stride 2, padding counted as zeros, then a 1x1 convolution."""
    return nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), ConvBNAct(width, width, 1, act="silu"))


def _no_lateral(_: int) -> nn.Module:
    return nn.Identity()


LITE = Fusion(sum_block, _no_lateral, pooled_downsample, summed=True)
