"""Intervals against a table of Student's t, their coverage, and what is said about them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.ablate.intervals import NO_DIFFERENCE, ONE_SEED, Interval, interval, verdict


# Two-sided 95 % points of Student's t, as every textbook prints them.
@pytest.mark.parametrize(("count", "point"), [(2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (11, 2.228)])
def test_students_t(count: int, point: float) -> None:
    values = np.random.default_rng(count).normal(size=count)
    mean, low, high, number = interval(values.tolist())
    assert number == count
    assert mean == pytest.approx(values.mean())
    half = point * values.std(ddof=1) / math.sqrt(count)
    assert (high - mean, mean - low) == (pytest.approx(half, rel=1e-3), pytest.approx(half, rel=1e-3))


def test_it_covers_what_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.4, 0.02, (4000, 3))
    held = [low <= 0.4 <= high for _, low, high, _ in map(interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-5, 5))
def test_it_moves_with_its_values(values: list[float], offset: float) -> None:
    one, other = interval(values), interval([value + offset for value in values])
    assert one.low <= one.mean <= one.high
    assert other.mean == pytest.approx(one.mean + offset, abs=1e-9)
    assert other.half == pytest.approx(one.half, abs=1e-6)


def test_too_few_values() -> None:
    assert math.isnan(interval([]).mean)
    one = interval([0.3])
    assert (one.mean, one.num) == (0.3, 1)
    assert math.isnan(one.low)
    assert math.isnan(interval([0.3, math.nan]).mean)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Interval(0.02, 0.01, 0.03, 3), "higher"),
        (Interval(-0.02, -0.03, -0.01, 3), "lower"),
        (Interval(0.02, -0.01, 0.05, 3), NO_DIFFERENCE),
        (Interval(0.0, 0.0, 0.0, 3), NO_DIFFERENCE),
        (Interval(0.02, math.nan, math.nan, 1), ONE_SEED),
        (Interval(math.nan, math.nan, math.nan, 0), "not measured"),
    ],
)
def test_verdicts(difference: Interval, said: str) -> None:
    assert verdict(difference) == said
