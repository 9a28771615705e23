"""RT-DETR's fusion block: RepVGG blocks in a cross-stage partial layer (2304.08069, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct, fold_norm, fuse_conv, pad_kernel
from flexdetr.model.fusion import Fusion, blocks_of


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
        """One biased 3x3 convolution and the activation; the 1x1 kernel goes into the centre of the 3x3 one."""
        wide, wide_bias = fold_norm(self.conv1.conv.weight, self.conv1.norm)
        narrow, narrow_bias = fold_norm(self.conv2.conv.weight, self.conv2.norm)
        weight, bias = wide + pad_kernel(narrow, 3), wide_bias + narrow_bias
        return fuse_conv(weight, bias, self.conv1.conv, self.act, nn.Identity())


class CSPRepLayer(nn.Module):
    """Two 1x1 branches, one of them through RepVGG blocks, summed.

    ``hidden`` channels are those of the branches; where they are not ``out_channels``, a 1x1 convolution
    follows the sum.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, hidden, 1, act="silu")
        self.conv2 = ConvBNAct(in_channels, hidden, 1, act="silu")
        self.bottlenecks = nn.Sequential(*(RepVggBlock(hidden) for _ in range(blocks)))
        self.conv3 = (
            ConvBNAct(hidden, out_channels, 1, act="silu") if hidden != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class CSPSplitLayer(nn.Module):
    """One 1x1 convolution whose second half goes through RepVGG blocks and is added to the first.

    DEIMv2's form (2509.20787) of ``CSPRepLayer``, which computes the two halves by a convolution each.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(in_channels, 2 * out_channels, 1, act="silu")
        self.bottlenecks = nn.Sequential(*(RepVggBlock(out_channels) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        kept, changed = self.conv1(x).chunk(2, 1)
        return kept + self.bottlenecks(changed)


def lateral(width: int) -> nn.Module:
    """The convolution before a level is raised."""
    return ConvBNAct(width, width, 1, act="silu")


def _block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    return CSPRepLayer(channels, out, int(out * config.expansion), blocks_of(config))


def downsample(width: int) -> nn.Module:
    """The stride-2 step of the bottom-up path."""
    return ConvBNAct(width, width, 3, stride=2, act="silu")


CSPREP = Fusion(_block, lateral, downsample)
