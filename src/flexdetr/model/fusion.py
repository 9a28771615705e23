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
        block: the encoder's section -> fusion block, (B, 2D, h, w) -> (B, D, h, w), on two concatenated levels.
        lateral: width D -> the 1x1 convolution before a level is raised.
        downsample: width D -> the stride-2 step of the bottom-up path.
        summed: the two levels are added instead, and blocks take (B, D, h, w).
        projects: a level of width D is projected too; otherwise it is taken as it is.
    """

    block: Callable[[EncoderConfig], nn.Module]
    lateral: Callable[[int], nn.Module]
    downsample: Callable[[int], nn.Module]
    summed: bool = False
    projects: bool = True


@dataclass(frozen=True)
class FusionRow:
    """What the configuration knows of a fusion.

    Attributes:
        place: its ``Fusion`` as ``package.module:NAME``.
        least: the smallest width times expansion that leaves it a channel.
        takes: levels that the backbone gives, finest first, of which the others are made by the step of the bottom-up
            path; None takes all from the backbone.
    """

    place: str
    least: int = 1
    takes: int | None = None


FUSIONS: Final[Mapping[str, FusionRow]] = {
    "csprep": FusionRow("flexdetr.model.csprep:CSPREP"),
    "gelan": FusionRow("flexdetr.model.gelan:GELAN", least=2),
    "gelan_sum": FusionRow("flexdetr.model.gelan:GELAN_SUM", least=2),
    "gelan_lean": FusionRow("flexdetr.model.gelan:GELAN_LEAN", least=2),
    "lite": FusionRow("flexdetr.model.lite:LITE", least=2, takes=1),
    "ghost": FusionRow("flexdetr.model.ghost:GHOST"),
}


def fusion(name: str) -> Fusion:
    """The fusion of a row."""
    found: Fusion = load_part(FUSIONS[name].place)
    return found


def blocks_of(config: EncoderConfig) -> int:
    """Blocks in a row: the published three times the depth, and never none."""
    return max(1, round(3 * config.depth))
