"""GhostNetV3 (2404.11202): ghost modules with decoupled attention, whose training branches fold into one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.attention import SE
from flexdetr.model.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from flexdetr.model.backbones.trunk import Stage, Trunk
from flexdetr.model.blocks import (
    Activation,
    ConvBNAct,
    activation,
    fold_identity,
    fold_norm,
    fuse_conv,
    pad_kernel,
)

BRANCHES = 3


class BranchedConv(nn.Module):
    """A sum of convolutions with their norms, a 1x1 one beside larger kernels, and a norm of the input.

    Args:
        kernel_size: odd side of the kernel.
        stride: of the convolutions.
        groups: of the convolutions.
        act: activation of the sum.
        branches: convolutions of the kernel's own size; one alone has nothing beside it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        act: Activation | None = None,
        branches: int = BRANCHES,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvBNAct(in_channels, out_channels, kernel_size, stride, groups, act=None)
            for _ in range(branches)
        )
        self.scale: ConvBNAct | None = None
        if kernel_size > 1 and branches > 1:
            self.scale = ConvBNAct(in_channels, out_channels, 1, stride, groups, act=None)
        self.identity: nn.BatchNorm2d | None = None
        if in_channels == out_channels and stride == 1 and branches > 1:
            self.identity = nn.BatchNorm2d(out_channels)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up."""
        out = self.branches[0](x)
        for branch in self.branches[1:]:
            out = out + branch(x)
        if self.scale is not None:
            out = out + self.scale(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return self.act(out)

    def fuse(self) -> nn.Module:
        """One biased convolution and the activation: kernels and biases of linear branches add up."""
        first = cast(ConvBNAct, self.branches[0])
        size = first.conv.kernel_size[0]
        parts = [
            fold_norm(part.conv.weight, part.norm)
            for part in (*self.branches, self.scale)
            if isinstance(part, ConvBNAct)
        ]
        if self.identity is not None:
            parts.append(fold_identity(self.identity, size, first.conv.groups))
        weight = torch.stack([pad_kernel(weight, size) for weight, _ in parts]).sum(0)
        bias = torch.stack([bias for _, bias in parts]).sum(0)
        return fuse_conv(weight, bias, first.conv, self.act, nn.Identity())


class GhostModule(nn.Module):
    """Half of the channels by a 1x1 convolution, the other half from those by a depthwise 3x3 one.

    Args:
        channels: of the input.
        out: channels of the output.
        act: activation of both halves.
        gated: multiply by the decoupled fully connected attention (2211.12905, eq. 5 to 7), which looks along
            rows and columns of the input at half its size.
        branches: see ``BranchedConv``.
    """

    def __init__(
        self, channels: int, out: int, act: Activation | None, gated: bool, branches: int = BRANCHES
    ) -> None:
        super().__init__()
        half = (out + 1) // 2
        self.out = out
        self.primary = BranchedConv(channels, half, 1, act=act, branches=branches)
        self.cheap = BranchedConv(half, half, 3, groups=half, act=act, branches=branches)
        self.gate: nn.Sequential | None = None
        if gated:
            self.gate = nn.Sequential(
                ConvBNAct(channels, out, 1, act=None),
                ConvBNAct(out, out, (1, 5), groups=out, act=None),
                ConvBNAct(out, out, (5, 1), groups=out, act=None),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        primary = self.primary(x)
        out = torch.cat([primary, self.cheap(primary)], 1)[:, : self.out]
        if self.gate is None:
            return out
        # The published floor of the halved size leaves nothing of a side of 1, which 32-pixel images reach.
        gate = torch.sigmoid(self.gate(F.avg_pool2d(x, 2, 2, ceil_mode=bool(min(x.shape[2:]) < 2))))
        return out * F.interpolate(gate, size=out.shape[2:], mode="nearest")


class GhostBottleneck(nn.Module):
    """Ghost module up, depthwise stride, squeeze and excitation, ghost module down, shortcut.

    Args:
        channels: of the input.
        inner: channels inside.
        out: channels of the output.
        kernel_size: of the depthwise convolution.
        stride: 1 or 2.
        squeeze: channels of the squeeze; 0 has none.
        gated: give the first ghost module its attention.
        branches: see ``BranchedConv``.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        out: int,
        kernel_size: int,
        stride: int,
        squeeze: int,
        gated: bool,
        branches: int = BRANCHES,
    ) -> None:
        super().__init__()
        self.ghost1 = GhostModule(channels, inner, "relu", gated, branches)
        self.depthwise: nn.Module = (
            BranchedConv(inner, inner, kernel_size, stride, inner, branches=branches)
            if stride > 1
            else nn.Identity()
        )
        self.se: nn.Module = SE(inner, squeeze, "hard_sigmoid") if squeeze else nn.Identity()
        self.ghost2 = GhostModule(inner, out, None, gated=False, branches=branches)
        self.shortcut: nn.Module = nn.Identity()
        if channels != out or stride > 1:
            self.shortcut = nn.Sequential(
                ConvBNAct(channels, channels, kernel_size, stride, channels, act=None),
                ConvBNAct(channels, out, 1, act=None),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride), rounded up."""
        return self.ghost2(self.se(self.depthwise(self.ghost1(x)))) + self.shortcut(x)


class _Row(NamedTuple):
    kernel: int
    inner: int
    out: int
    squeeze: bool
    stride: int


# At width 1; a list for each stride from 2 to 32.
_STAGES: tuple[tuple[_Row, ...], ...] = (
    (_Row(3, 16, 16, False, 1),),
    (_Row(3, 48, 24, False, 2), _Row(3, 72, 24, False, 1)),
    (_Row(5, 72, 40, True, 2), _Row(5, 120, 40, True, 1)),
    (
        _Row(3, 240, 80, False, 2),
        _Row(3, 200, 80, False, 1),
        _Row(3, 184, 80, False, 1),
        _Row(3, 184, 80, False, 1),
        _Row(3, 480, 112, True, 1),
        _Row(3, 672, 112, True, 1),
    ),
    (
        _Row(5, 672, 160, True, 2),
        _Row(5, 960, 160, False, 1),
        _Row(5, 960, 160, True, 1),
        _Row(5, 960, 160, False, 1),
        _Row(5, 960, 160, True, 1),
    ),
)
WIDTHS: dict[str, float] = {"050": 0.5, "100": 1.0, "130": 1.3, "160": 1.6}
_UNGATED_BLOCKS = 2


def ghostnetv3(
    variant: str, *, strides: Sequence[int], inserts: Mapping[int, str], branches: int = BRANCHES
) -> Trunk:
    """GhostNetV3 in its training form, without the classifier's 1x1 convolution.

    Stages are the blocks of one stride; levels are the last block of each (24, 40, 112, 160 channels at width
    1), not the first as timm's feature extractor has it.

    Args:
        variant: the width: "050", "100", "130" or "160".
        strides: of the wanted levels, among 2, 4, 8, 16, 32 (and coarser ones, which are made).
        inserts: see ``Trunk``.
        branches: convolutions that are trained in the place of one (the paper's re-parameterisation, with a 1x1 one and
            a norm beside them); 1 trains without. The deploy form is the same.

    Raises:
        ConfigError: if the variant is unknown or a level does not fit.
    """
    if variant not in WIDTHS:
        raise ConfigError(nearest(variant, WIDTHS, "GhostNetV3 width"))
    if not isinstance(branches, int) or not 1 <= branches <= 16:
        raise ConfigError(
            f"backbone.options of ghostnetv3_{variant}: branches is a number from 1 to 16; got {branches!r}"
        )
    width = WIDTHS[variant]
    channels = divisible(16 * width)
    stem = ConvBNAct(3, channels, 3, stride=2)
    stages, number = [], 0
    for index, rows in enumerate(_STAGES):
        blocks = []
        for row in rows:
            inner, out = divisible(row.inner * width), divisible(row.out * width)
            squeeze = divisible(inner * 0.25) if row.squeeze else 0
            gated = number >= _UNGATED_BLOCKS
            blocks.append(
                GhostBottleneck(channels, inner, out, row.kernel, row.stride, squeeze, gated, branches)
            )
            channels, number = out, number + 1
        stages.append(Stage(nn.Sequential(*blocks), channels, 2 << index))
    trunk = Trunk(
        f"ghostnetv3_{variant}",
        stem,
        stages,
        strides=strides,
        inserts=inserts,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    _shrink_initial_kernels(trunk)
    return trunk


@torch.no_grad()
def _shrink_initial_kernels(trunk: nn.Module) -> None:
    """Makes initial kernels smaller where outputs are added up or no activation halves them.

    The norms' running statistics start at 0 and 1 and so normalise nothing: without this an untrained
    network's features grow to 1e17 in evaluation mode. In training mode the norms make it no difference.
    """
    for part in trunk.modules():
        if isinstance(part, BranchedConv):
            summands = [*part.branches, part.scale, part.identity]
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.weight /= math.sqrt(sum(summand is not None for summand in summands))
        if isinstance(part, ConvBNAct) and isinstance(part.act, nn.Identity):
            part.conv.weight /= math.sqrt(2)


def divisible(channels: float) -> int:
    """The nearest multiple of four, at least that, never below nine tenths of ``channels``."""
    rounded = max(4, int(channels + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * channels else rounded
