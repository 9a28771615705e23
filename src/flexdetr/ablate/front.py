"""Which candidates are worth having: those to which no other is both more accurate and faster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A candidate's two sides.

    Attributes:
        ap: the more the better; nan if it has none.
        milliseconds: the fewer the better.
    """

    ap: float
    milliseconds: float

    def beats(self, other: Point) -> bool:
        """Whether it is at least as good on both sides, and better on one."""
        if math.isnan(self.ap) or math.isnan(other.ap):
            return math.isnan(other.ap) and not math.isnan(self.ap)
        no_worse = self.ap >= other.ap and self.milliseconds <= other.milliseconds
        return no_worse and self != other


def fronts(points: Mapping[str, Point]) -> list[list[str]]:
    """Names in layers: first the ones that nothing beats, then those that only these beat, and so on.

    Within a layer the fastest comes first.
    """
    left = dict(points)
    found: list[list[str]] = []
    while left:
        layer = [name for name, one in left.items() if not any(other.beats(one) for other in left.values())]
        found.append(sorted(layer, key=lambda name: left[name].milliseconds))
        for name in layer:
            del left[name]
    return found


def best(points: Mapping[str, Point], count: int) -> list[str]:
    """The best of some candidates, along the whole front.

    Args:
        points: by name.
        count: how many, at most. Where a layer of ``fronts`` is cut, the ones kept are spread evenly over it.
    """
    chosen: list[str] = []
    for layer in fronts(points):
        room = count - len(chosen)
        chosen += layer if len(layer) <= room else _spread(layer, room)
    return chosen


def _spread(names: Sequence[str], count: int) -> list[str]:
    if count < 1:
        return []
    if count == 1:
        return [names[-1]]  # the most accurate
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
