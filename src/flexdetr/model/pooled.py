"""Blocks within a level that pool instead of attending, and none at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: three chained 5x5 max pools, concatenated between two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.squeeze = ConvBNAct(channels, hidden, 1, act="silu")
        self.expand = ConvBNAct(4 * hidden, channels, 1, act="silu")

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        pools = [self.squeeze(level)]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, stride=1, padding=2))
        return self.expand(torch.cat(pools, 1))


class GlobalMean(nn.Module):
    """Each position learns the mean of its level: it is added, and a 1x1 convolution follows (DEIMv2, 2509.20787)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv = ConvBNAct(config.width, config.width, 1, act="silu")

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return self.conv(level + level.mean((2, 3), keepdim=True))


def sppf(config: EncoderConfig) -> nn.Module:
    """A convolution-only block within a level."""
    return SPPF(config.width)


class Nothing(nn.Module):
    """The level as it is."""

    def __init__(self, config: EncoderConfig) -> None:  # noqa: ARG002 - built like the other blocks
        super().__init__()

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return level
