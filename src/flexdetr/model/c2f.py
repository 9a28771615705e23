"""YOLOv8's C2f block: a cross-stage partial layer that keeps every bottleneck's output."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.csprep import downsample
from flexdetr.model.fusion import Fusion, blocks_of

_Part = TypeVar("_Part", bound=nn.Module)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, beside an identity where there is a shortcut."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3, act="silu")
        self.conv2 = ConvBNAct(channels, channels, 3, act="silu")
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        out = self.conv2(self.conv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """A 1x1 convolution in two halves, bottlenecks in a row on the second one, and a 1x1 convolution of all pieces.

    Args:
        hidden: channels of each half and of the bottlenecks; as published half of ``out_channels``.
        blocks: bottlenecks.
        shortcut: bottlenecks add their input; in a backbone they do, in a feature pyramid they do not.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: int, shortcut: bool) -> None:
        super().__init__()
        self.split = ConvBNAct(in_channels, 2 * hidden, 1, act="silu")
        self.bottlenecks = nn.ModuleList(Bottleneck(hidden, shortcut) for _ in range(blocks))
        self.project = ConvBNAct((2 + blocks) * hidden, out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        parts = list(self.split(x).chunk(2, 1))
        for bottleneck in self.bottlenecks:
            parts.append(bottleneck(parts[-1]))
        return self.project(torch.cat(parts, 1))


def with_yolov8_norms(module: _Part) -> _Part:
    """Gives every batch norm below ``module`` YOLOv8's constants: 1e-3 below the root, statistics that move by 0.03."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = 1e-3, 0.03
    return module


def _block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    hidden = int(out * config.expansion / 2)
    return with_yolov8_norms(C2f(channels, out, hidden, blocks_of(config), shortcut=False))


def _no_lateral(width: int) -> nn.Module:  # noqa: ARG001 - a part of a fusion like the others
    return nn.Identity()


def _downsample(width: int) -> nn.Module:
    return with_yolov8_norms(downsample(width))


PAN_C2F = Fusion(_block, _no_lateral, _downsample)
