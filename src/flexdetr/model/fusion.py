"""Cross-scale fusion blocks: what the hybrid encoder puts between two levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct


class RepVggBlock(nn.Module):
    """SiLU(3x3 + 1x1), each with its own norm, no identity branch; folds to one 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3, act=None)
        self.conv2 = ConvBNAct(channels, channels, 1, act=None)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.act(self.conv1(x) + self.conv2(x))

    def fuse(self) -> nn.Module:
        """A new module of one biased 3x3 convolution and the activation, equal to this one in evaluation mode."""
        wide, narrow = (_folded(branch) for branch in (self.conv1, self.conv2))
        conv = nn.Conv2d(wide[0].shape[1], wide[0].shape[0], 3, padding=1).to(wide[0])
        conv.weight.data.copy_(wide[0] + nn.functional.pad(narrow[0], [1, 1, 1, 1]))
        if conv.bias is not None:
            conv.bias.data.copy_(wide[1] + narrow[1])
        return nn.Sequential(conv, nn.SiLU(inplace=True))


def _folded(branch: ConvBNAct) -> tuple[nn.Parameter, nn.Parameter]:
    norm = branch.norm
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a norm without running statistics cannot be folded")
    return fuse_conv_bn_weights(
        branch.conv.weight, branch.conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


class CSPRepLayer(nn.Module):
    """RT-DETR's fusion block: two 1x1 branches, one through RepVGG blocks, summed."""

    def __init__(self, in_channels: int, out_channels: int, config: EncoderConfig) -> None:
        super().__init__()
        hidden = int(out_channels * config.expansion)
        self.conv1 = ConvBNAct(in_channels, hidden, 1, act="silu")
        self.conv2 = ConvBNAct(in_channels, hidden, 1, act="silu")
        self.bottlenecks = nn.Sequential(*(RepVggBlock(hidden) for _ in range(max(1, round(3 * config.depth)))))
        self.conv3 = ConvBNAct(hidden, out_channels, 1, act="silu") if hidden != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2D, h, w) -> (B, D, h, w)."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class Fusion(NamedTuple):
    """One way of fusing levels.

    Attributes:
        block: (in channels, out channels, config) -> fusion block on two concatenated levels.
        lateral: width -> the 1x1 convolution before a level is raised.
        downsample: width -> the stride-2 step of the bottom-up path.
    """

    block: Callable[[int, int, EncoderConfig], nn.Module]
    lateral: Callable[[int], nn.Module]
    downsample: Callable[[int], nn.Module]


def _lateral(width: int) -> nn.Module:
    return ConvBNAct(width, width, 1, act="silu")


def _downsample(width: int) -> nn.Module:
    return ConvBNAct(width, width, 3, stride=2, act="silu")


FUSIONS: Final[Mapping[str, Fusion]] = {
    "csprep": Fusion(CSPRepLayer, _lateral, _downsample),
}
