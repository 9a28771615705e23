"""Blocks within the coarsest level, by name; the table imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from flexdetr.part_table import load_part

if TYPE_CHECKING:
    from torch import nn

    from flexdetr.config import EncoderConfig


class Widths(Protocol):
    """What of the encoder's section decides whether a block fits."""

    @property
    def width(self) -> int:
        """Channels of every level."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads."""
        ...

    @property
    def project(self) -> bool:
        """Whether levels are brought to that width."""
        ...


@dataclass(frozen=True)
class IntraRow:
    """One block within a level, (B, D, h, w) -> (B, D, h, w).

    Attributes:
        place: what makes it, as ``package.module:NAME``, from the encoder's section.
        check: refuses widths that do not fit it; raises ``ValueError``.
    """

    place: str
    check: Callable[[Widths], None] | None = None


def _attention_fits(encoder: Widths) -> None:
    if not encoder.project:
        raise ValueError(
            "intra=aifi needs levels of one width; set encoder.project=true, or encoder.intra=sppf or none"
        )
    # The position embedding is four parts of equal width.
    if encoder.width % encoder.heads or encoder.width % 4:
        raise ValueError(
            f"width {encoder.width} must be divisible by heads ({encoder.heads}) and by 4 for aifi"
        )


INTRA: Final[Mapping[str, IntraRow]] = {
    "aifi": IntraRow("flexdetr.model.aifi:AIFI", _attention_fits),
    "sppf": IntraRow("flexdetr.model.pooled:sppf"),
    "gap": IntraRow("flexdetr.model.pooled:GlobalMean"),
    "none": IntraRow("flexdetr.model.pooled:Nothing"),
}


def build_intra(config: EncoderConfig) -> nn.Module:
    """The block that an encoder's section names."""
    make: Callable[[EncoderConfig], nn.Module] = load_part(INTRA[config.intra].place)
    return make(config)
