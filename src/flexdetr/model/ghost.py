"""A light fusion block of ghost modules (GhostNet, 1911.11907), for backbones that are themselves light."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import Activation, ConvBNAct
from flexdetr.model.csprep import lateral
from flexdetr.model.fusion import Fusion, blocks_of

# A 1x1 convolution sees nothing of its surroundings, so the depthwise half has to: 5x5, as PP-PicoDet's (2111.00902).
KERNEL = 5


class GhostConv(nn.Module):
    """Half of the channels by a 1x1 convolution, the other half from those by a depthwise one.

    An odd number of output channels is made from an even one.
    """

    def __init__(self, in_channels: int, out_channels: int, act: Activation | None = "silu") -> None:
        super().__init__()
        half = (out_channels + 1) // 2
        self.out_channels = out_channels
        self.primary = ConvBNAct(in_channels, half, 1, act=act)
        self.cheap = ConvBNAct(half, half, KERNEL, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], 1)[:, : self.out_channels]


class GhostBlock(nn.Module):
    """Two ghost convolutions beside an identity; the second has no activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ghost1 = GhostConv(channels, channels)
        self.ghost2 = GhostConv(channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x + self.ghost2(self.ghost1(x))


class GhostLayer(nn.Module):
    """RT-DETR's fusion block with ghost convolutions in the place of its dense ones."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = GhostConv(in_channels, hidden)
        self.conv2 = ConvBNAct(in_channels, hidden, 1, act="silu")
        self.blocks = nn.Sequential(*(GhostBlock(hidden) for _ in range(blocks)))
        self.conv3 = (
            ConvBNAct(hidden, out_channels, 1, act="silu") if hidden != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        return self.conv3(self.blocks(self.conv1(x)) + self.conv2(x))


def ghost_downsample(width: int) -> nn.Module:
    """A depthwise convolution with stride 2, then a 1x1 one with activation."""
    return nn.Sequential(
        ConvBNAct(width, width, KERNEL, stride=2, groups=width, act=None),
        ConvBNAct(width, width, 1, act="silu"),
    )


def _block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    return GhostLayer(channels, out, int(out * config.expansion), blocks_of(config))


GHOST = Fusion(_block, lateral, ghost_downsample)
