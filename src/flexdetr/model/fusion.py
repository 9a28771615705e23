"""Cross-scale fusion, what the hybrid encoder puts between two levels, by name; the table imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from flexdetr.part_table import load_part

if TYPE_CHECKING:
    from torch import nn

    from flexdetr.config import EncoderConfig


class Fusion(NamedTuple):
    """One way of fusing levels.

    Attributes:
        block: the encoder's section, channels I of two concatenated levels, channels O of the level that they become
            -> fusion block, (B, I, h, w) -> (B, O, h, w).
        lateral: channels D -> the 1x1 convolution before a level is raised.
        downsample: channels D -> the stride-2 step of the bottom-up path.
        summed: the two levels, of the same width, are added instead.
        projects: a level of the encoder's width is projected too; otherwise it is taken as it is.
    """

    block: Callable[[EncoderConfig, int, int], nn.Module]
    lateral: Callable[[int], nn.Module]
    downsample: Callable[[int], nn.Module]
    summed: bool = False
    projects: bool = True

    def joined(self, fine: int, coarse: int) -> int:
        """Channels that a block takes, of two levels."""
        return fine if self.summed else fine + coarse


@dataclass(frozen=True)
class FusionRow:
    """What the configuration knows of a fusion.

    Attributes:
        place: its ``Fusion`` as ``package.module:NAME``.
        least: the smallest width times expansion that leaves it a channel.
        takes: levels that the backbone gives, finest first, of which the others are made by the step of the bottom-up
            path; None takes all from the backbone.
        own_widths: levels may differ in width.
    """

    place: str
    least: int = 1
    takes: int | None = None
    own_widths: bool = True


FUSIONS: Final[Mapping[str, FusionRow]] = {
    "csprep": FusionRow("flexdetr.model.csprep:CSPREP"),
    "gelan": FusionRow("flexdetr.model.gelan:GELAN", least=2),
    "gelan_sum": FusionRow("flexdetr.model.gelan:GELAN_SUM", least=2, own_widths=False),
    "gelan_lean": FusionRow("flexdetr.model.gelan:GELAN_LEAN", least=2, own_widths=False),
    "lite": FusionRow("flexdetr.model.lite:LITE", least=2, takes=1, own_widths=False),
    "ghost": FusionRow("flexdetr.model.ghost:GHOST"),
    "pan_c2f": FusionRow("flexdetr.model.c2f:PAN_C2F", least=2),
}


def fusion(name: str) -> Fusion:
    """The fusion of a row."""
    found: Fusion = load_part(FUSIONS[name].place)
    return found


def blocks_of(config: EncoderConfig) -> int:
    """Blocks in a row: the published three times the depth, and never none."""
    return max(1, round(3 * config.depth))


def hidden_of(config: EncoderConfig) -> int:
    """Channels inside a fusion block."""
    return int(config.width * config.expansion) // FUSIONS[config.fusion].least
