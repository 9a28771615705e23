from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.detections import drawn, made
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import drift, floors, matching_costs, pair
from flexdetr.runtime.parity import Tolerance

TOLERANCE = Tolerance()


def reordered(one: Detections, order: list[int]) -> Detections:
    return one[order]


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_is_no_drift(seed: int, random: object) -> None:
    one = drawn(seed)
    order = list(range(len(one)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = drift("", [one], [reordered(one, order)], TOLERANCE)
    assert found.passed
    assert (found.missing, found.extra, found.flips, found.score, found.box) == (0, 0, 0, 0.0, 0.0)


@given(st.integers(0, 1000))
def test_equal_detections_are_paired_one_to_one(seed: int) -> None:
    one = drawn(seed)
    twice = made(np.tile(one.boxes_xyxy, (2, 1)), np.tile(one.scores, 2), np.tile(one.indices, 2))
    wanted = int((one.scores > 0.3).sum())
    found = pair(twice, one, 0.3)
    assert found.missing == wanted
    assert not found.flipped.any()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("score", lambda one: made(one.boxes_xyxy, one.scores - 0.002, one.indices)),
        ("box", lambda one: made(one.boxes_xyxy + 0.6, one.scores, one.indices)),
        ("flips", lambda one: made(one.boxes_xyxy, one.scores, (one.indices + 1) % 3)),
        ("missing", lambda one: one[1:]),
        ("missing", lambda one: one[:0]),
    ],
)
def test_every_kind_of_drift_is_seen(field: str, change: object) -> None:
    one = drawn(3)
    found = drift("", [one], [change(one)], TOLERANCE)  # type: ignore[operator]
    assert not found.passed
    assert getattr(found, field) > 0


def test_extra_detections_are_seen() -> None:
    one = drawn(3)
    assert drift("", [one[1:]], [one], TOLERANCE).extra == 1


def test_nan_scores_do_not_pass() -> None:
    one = drawn(3)
    broken = made(one.boxes_xyxy, np.full(len(one), np.nan), one.indices)
    assert not drift("", [one], [broken], TOLERANCE).passed


def test_a_score_that_drifts_over_the_floor_is_neither_missing_nor_extra() -> None:
    low = made([[0, 0, 50, 50]], [0.2999], [0])
    high = made([[0, 0, 50, 50]], [0.3003], [0])
    strong = made([[60, 60, 90, 90]], [0.9], [1])
    for first, second in ((low, high), (high, low)):
        both = [
            made(
                np.concatenate([strong.boxes_xyxy, one.boxes_xyxy]),
                np.concatenate([strong.scores, one.scores]),
                [1, 0],
            )
            for one in (first, second)
        ]
        assert drift("", [both[0]], [both[1]], TOLERANCE).passed


def test_a_proof_is_never_empty() -> None:
    one = drawn(5, count=40, best=0.1)  # nothing above 0.3
    assert floors([one], 0.3)[0] < 0.1
    found = drift("", [one], [one], TOLERANCE)
    assert found.compared >= 10
    assert not drift("", [one], [made(one.boxes_xyxy, one.scores + 0.01, one.indices)], TOLERANCE).passed


@given(st.integers(0, 1000))
def test_pairs_of_small_drifts_are_those_of_the_cheapest_sum(seed: int) -> None:
    """SciPy as oracle: the greedy choice is the optimum where answers are nearly the same."""
    assign = pytest.importorskip("scipy.optimize").linear_sum_assignment
    rng = np.random.default_rng(seed)
    one = drawn(seed)
    moved = made(
        one.boxes_xyxy + rng.normal(0, 0.3, (len(one), 4)),
        one.scores + rng.normal(0, 1e-3, len(one)),
        one.indices,
    )[rng.permutation(len(one))]
    found = pair(one, moved, -1.0)
    rows, columns = assign(matching_costs(one, moved))
    assert {*zip(found.first.tolist(), found.second.tolist(), strict=True)} == {
        *zip(rows.tolist(), columns.tolist(), strict=True)
    }
