"""Means over seeds with their 95 % intervals, and what they allow one to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

LEVEL: Final = 0.95
NO_DIFFERENCE: Final = "no difference shown"
ONE_SEED: Final = "one seed: nothing can be said"
HIGHER, LOWER = "higher", "lower"


class Interval(NamedTuple):
    """A mean and the interval that holds the true one with 95 % confidence.

    Attributes:
        mean: of the values; nan without any.
        low: lower end; nan with fewer than two values.
        high: upper end.
        num: how many values there are.
    """

    mean: float
    low: float
    high: float
    num: int

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean: right for few values, if those scatter about normally."""
    count = len(values)
    if not count or any(math.isnan(value) for value in values):
        return Interval(math.nan, math.nan, math.nan, count)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    from scipy.special import stdtrit

    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def verdict(difference: Interval) -> str:
    """What a paired difference to the base says."""
    if difference.num == 1:
        return ONE_SEED
    if math.isnan(difference.low):
        return "not measured"
    if difference.low <= 0 <= difference.high:
        return NO_DIFFERENCE
    return HIGHER if difference.mean > 0 else LOWER
