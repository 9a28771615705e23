"""D-FINE's fusion block and down-sampling (2410.13842): GELAN from YOLOv9, SCDown from YOLOv10; DEIMv2's variants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.csprep import CSPRepLayer, CSPSplitLayer
from flexdetr.model.fusion import Fusion, blocks_of


class Gelan(nn.Module):
    """Generalised efficient layer aggregation (2402.13616, figure 4c), as D-FINE's RepNCSPELAN4 has it.

    A 1x1 convolution whose second half goes through two steps in a row, each a CSP layer and a 3x3 convolution; both
    halves and both steps' outputs are concatenated and projected.

    DEIMv2 (2509.20787) has two variants: CSP layers with a single convolution (``one_conv``), and, in its larger
    models, steps without the 3x3 convolution (not ``wide``).

    Args:
        split: channels of the first convolution, an even number.
        hidden: channels inside the steps.
        blocks: RepVGG blocks of each CSP layer.
        one_conv: take ``CSPSplitLayer`` for the CSP layers.
        wide: end each step with a 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        split: int,
        hidden: int,
        blocks: int,
        *,
        one_conv: bool = False,
        wide: bool = True,
    ) -> None:
        super().__init__()
        half = split // 2
        self.split = ConvBNAct(in_channels, split, 1, act="silu")
        self.steps = nn.ModuleList()
        for width in (half, hidden):
            csp = (
                CSPSplitLayer(width, hidden, blocks)
                if one_conv
                else CSPRepLayer(width, hidden, hidden, blocks)
            )
            last = [ConvBNAct(hidden, hidden, 3, act="silu")] if wide else []
            self.steps.append(nn.Sequential(csp, *last))
        self.project = ConvBNAct(split + 2 * hidden, out_channels, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        parts = list(self.split(x).chunk(2, 1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.project(torch.cat(parts, 1))


def separable_downsample(width: int) -> nn.Module:
    """SCDown (2405.14458, section 3.2): a 1x1 convolution, then a depthwise 3x3 one with stride 2; no activation."""
    return nn.Sequential(
        ConvBNAct(width, width, 1, act=None), ConvBNAct(width, width, 3, stride=2, groups=width, act=None)
    )


def linear_lateral(width: int) -> nn.Module:
    """The convolution before a level is raised; no activation."""
    return ConvBNAct(width, width, 1, act=None)


def _hidden(config: EncoderConfig, out: int) -> int:
    return round(config.expansion * out // 2)


def _block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    return Gelan(channels, out, 2 * out, _hidden(config, out), blocks_of(config))


def sum_block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    """DEIMv2's block on the sum of two levels."""
    return Gelan(channels, out, 2 * out, _hidden(config, out), blocks_of(config), one_conv=True)


def _lean_block(config: EncoderConfig, channels: int, out: int) -> nn.Module:
    return Gelan(channels, out, 2 * out, _hidden(config, out), blocks_of(config), one_conv=True, wide=False)


GELAN = Fusion(_block, linear_lateral, separable_downsample)
# DEIMv2's N and S, and its larger models.
GELAN_SUM = Fusion(sum_block, linear_lateral, separable_downsample, summed=True, projects=False)
GELAN_LEAN = Fusion(_lean_block, linear_lateral, separable_downsample, summed=True, projects=False)
