"""Attention inserts: modules that keep a feature map's shape, (B, C, H, W) -> (B, C, H, W), and reweight it.

Any of them can stand after a backbone stage or an encoder level; ``flexdetr.model.inserts`` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hard_sigmoid": F.hardsigmoid}


class ESE(nn.Module):
    """Effective squeeze and excitation (1911.06667): one 1x1 convolution on the pooled map, no bottleneck.

    Args:
        channels: of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``x * sigmoid(conv(pool(x)))``."""
        return x * torch.sigmoid(self.conv(_pool(x)))


class SE(nn.Module):
    """Squeeze and excitation (1709.01507, eq. 3).

    Args:
        channels: of the feature map.
        hidden: channels of the bottleneck; None takes a sixteenth, at least 8.
        gate: "sigmoid", or "hard_sigmoid" as the GhostNets have it.
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        gate: Literal["sigmoid", "hard_sigmoid"] = "sigmoid",
    ) -> None:
        super().__init__()
        hidden = _bottleneck(channels) if hidden is None else hidden
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """``x * gate(expand(relu(reduce(pool(x)))))``."""
        return x * GATES[self.gate](self.expand(F.relu(self.reduce(_pool(x)))))


class ECA(nn.Module):
    """Efficient channel attention (1910.03151): a short convolution along the channels of the pooled map.

    Args:
        channels: of the feature map; they set the kernel size, the whole part of ``(log2(C) + 1) / 2``, plus
            one where that is even (eq. 12 with gamma 2 and b 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int(abs((math.log2(channels) + 1) / 2)) | 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x * sigmoid(conv(pool(x)))``."""
        weights = self.conv(x.mean((2, 3))[:, None])  # (B, 1, C)
        return x * torch.sigmoid(weights).transpose(1, 2)[..., None]


class CBAM(nn.Module):
    """Convolutional block attention module (1807.06521): channel attention, then spatial attention.

    Args:
        channels: of the feature map.
        kernel_size: of the spatial convolution.
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = _bottleneck(channels)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 2 on the channels, then eq. 3 on the positions."""
        pooled = (_pool(x), x.amax((2, 3), keepdim=True))
        x = x * torch.sigmoid(sum(self.expand(F.relu(self.reduce(each))) for each in pooled))
        stacked = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(stacked))


class CoordinateAttention(nn.Module):
    """Coordinate attention (2103.02907): gates for rows and for columns from one shared bottleneck.

    Args:
        channels: of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels // 32)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 4 to 8, with hard-swish for the non-linearity."""
        height, width = x.shape[2:]
        pooled = torch.cat([x.mean(3), x.mean(2)], 2)[..., None]  # (B, C, H + W, 1)
        rows, columns = torch.split(F.hardswish(self.norm(self.reduce(pooled))), [height, width], 2)
        return x * torch.sigmoid(self.rows(rows)) * torch.sigmoid(self.columns(columns)).transpose(2, 3)


class SimAM(nn.Module):
    """SimAM (ICML 2021, eq. 5): weights from an energy function, without a parameter.

    Args:
        channels: of the feature map; any number fits.
        regularisation: lambda of the energy function.
    """

    def __init__(self, channels: int, regularisation: float = 1e-4) -> None:
        super().__init__()
        self.channels = channels
        self.regularisation = regularisation

    def forward(self, x: Tensor) -> Tensor:
        """``x * sigmoid(d / (4 (variance + lambda)) + 1/2)``, d the squared distance from the mean."""
        squared = (x - _pool(x)).square()
        variance = squared.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3] - 1, 1)
        return x * torch.sigmoid(squared / (4 * (variance + self.regularisation)) + 0.5)


class EMA(nn.Module):
    """Efficient multi-scale attention with cross-spatial learning (2305.13563, figure 3).

    Channels are split into ``factor`` groups that share one 1x1 and one 3x3 convolution, both with bias.

    Args:
        channels: of the feature map.
        factor: number of groups, a divisor of ``channels``; None takes the published 32, or the largest
            divisor below it where 32 is none.

    Raises:
        ValueError: if ``factor`` does not divide ``channels``.
    """

    def __init__(self, channels: int, factor: int | None = None) -> None:
        super().__init__()
        factor = max(n for n in range(1, 33) if channels % n == 0) if factor is None else factor
        if factor < 1 or channels % factor:
            raise ValueError(f"EMA attention: factor {factor} does not divide {channels} channels")
        width = channels // factor
        self.factor = factor
        self.norm = nn.GroupNorm(width, width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        batch, channels, height, width = x.shape
        groups = x.reshape(batch * self.factor, channels // self.factor, height, width)
        pooled = torch.cat([groups.mean(3), groups.mean(2)], 2)[..., None]
        rows, columns = torch.split(torch.sigmoid(self.conv1(pooled)), [height, width], 2)
        gated = self.norm(groups * rows * columns.transpose(2, 3))
        local = self.conv3(groups)
        weights = _descriptor(gated) @ local.flatten(2) + _descriptor(local) @ gated.flatten(2)
        weights = torch.sigmoid(weights).reshape(-1, 1, height, width)
        return (groups * weights).reshape(batch, channels, height, width)


def _pool(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), the mean over positions."""
    return x.mean((2, 3), keepdim=True)


def _descriptor(x: Tensor) -> Tensor:
    """(G, C, H, W) -> (G, 1, C): the channels' softmax-weighted share in the pooled map."""
    return torch.softmax(x.mean((2, 3)), 1)[:, None]


def _bottleneck(channels: int) -> int:
    return max(8, channels // 16)
