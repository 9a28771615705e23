"""The hybrid encoder: a block within the coarsest level (AIFI), then fusion across levels (CCFF).

RT-DETR, arXiv 2304.08069, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import EncoderConfig
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.fusion import fusion
from flexdetr.model.intra import build_intra


def encoder_channels(channels: Sequence[int], config: EncoderConfig) -> tuple[int, ...]:
    """Channels of the encoder's levels, from those of the backbone's: one width, or the backbone's own."""
    return (config.width,) * len(config.strides) if config.project else tuple(channels)


class HybridEncoder(nn.Module):
    """Brings every level to one width, unless told otherwise, mixes within the coarsest and across all.

    ``channels`` are those of the backbone's levels (``config.backbone_strides``), finest first; ``inserts`` are
    attention modules by stride, applied to the encoder's output level of that stride.

    Attributes:
        channels: of its own levels, finest first.
    """

    def __init__(
        self, channels: Sequence[int], config: EncoderConfig, inserts: Mapping[int, nn.Module] | None = None
    ) -> None:
        super().__init__()
        way = fusion(config.fusion)
        self.channels = encoder_channels(channels, config)
        pairs = list(pairwise(self.channels))
        self.strides = config.strides
        self.summed = way.summed
        self.input_proj = nn.ModuleList(
            ConvBNAct(count, width, 1, act=None)
            if config.project and (way.projects or count != width)
            else nn.Identity()
            for count, width in zip(channels, self.channels, strict=False)
        )
        self.made = nn.ModuleList(way.downsample(width) for width in self.channels[len(channels) :])
        self.intra = build_intra(config.model_copy(update={"width": self.channels[-1]}))
        self.lateral = nn.ModuleList(way.lateral(coarse) for _, coarse in reversed(pairs))
        self.top_down = nn.ModuleList(
            way.block(config, way.joined(fine, coarse), fine) for fine, coarse in reversed(pairs)
        )
        self.downsample = nn.ModuleList(way.downsample(fine) for fine, _ in pairs)
        self.bottom_up = nn.ModuleList(
            way.block(config, way.joined(fine, coarse), coarse) for fine, coarse in pairs
        )
        self.inserts = nn.ModuleDict({str(stride): insert for stride, insert in (inserts or {}).items()})

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels (B, C_l, h_l, w_l) -> encoder levels (B, D_l, h_l, w_l), finest first."""
        return self.across(self.within(features))

    def within(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels -> levels of the encoder's width, mixed within the coarsest; not yet across."""
        levels = [project(level) for project, level in zip(self.input_proj, features, strict=True)]
        for down in self.made:
            levels.append(down(levels[-1]))
        levels[-1] = self.intra(levels[-1])
        return levels

    def across(self, within: Sequence[Tensor]) -> list[Tensor]:
        """What ``within`` gave -> the encoder's levels."""
        levels = list(within)
        for step, (lateral, block) in enumerate(zip(self.lateral, self.top_down, strict=True)):
            coarse = len(levels) - 1 - step
            # The bottom-up path re-uses the lateral's output, not its input.
            levels[coarse] = lateral(levels[coarse])
            fine = levels[coarse - 1]
            raised = F.interpolate(levels[coarse], size=fine.shape[-2:], mode="nearest")
            levels[coarse - 1] = block(self._joined(raised, fine))
        for finer, (down, block) in enumerate(zip(self.downsample, self.bottom_up, strict=True)):
            levels[finer + 1] = block(self._joined(down(levels[finer]), levels[finer + 1]))
        if self.inserts:
            levels = [
                self.inserts[str(stride)](level) if str(stride) in self.inserts else level
                for stride, level in zip(self.strides, levels, strict=True)
            ]
        return levels

    def _joined(self, moved: Tensor, here: Tensor) -> Tensor:
        """A raised or lowered level and the one that it meets, as the fusion block takes them."""
        return moved + here if self.summed else torch.cat([moved, here], 1)
