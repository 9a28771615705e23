"""Attention inserts by name; the table imports no torch, and the configuration takes its choices from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from flexdetr.part_table import load_part

if TYPE_CHECKING:
    from torch import nn

# Classes that are built from the number of channels of a feature map, whose shape they keep.
INSERTS: Final[Mapping[str, str]] = {
    "ese": "flexdetr.model.attention:ESE",
    "se": "flexdetr.model.attention:SE",
    "eca": "flexdetr.model.attention:ECA",
    "cbam": "flexdetr.model.attention:CBAM",
    "coordinate": "flexdetr.model.attention:CoordinateAttention",
    "simam": "flexdetr.model.attention:SimAM",
    "ema": "flexdetr.model.attention:EMA",
}


def build_insert(name: str, channels: int) -> nn.Module:
    """An insert for a feature map."""
    make: Callable[[int], nn.Module] = load_part(INSERTS[name])
    return make(channels)
