"""Fronts beside their definition."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from flexdetr.ablate.front import Point, best, fronts

POINTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.builds(Point, st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan]), st.sampled_from([1.0, 2.0, 3.0, 4.0])),
    max_size=12,
)


@given(POINTS)
def test_layers_hold_everybody_once_and_nobody_beats_one_of_an_earlier_layer(
    points: dict[str, Point],
) -> None:
    layers = fronts(points)
    assert sorted(name for layer in layers for name in layer) == sorted(points)
    for place, layer in enumerate(layers):
        later = [name for other in layers[place:] for name in other]
        assert not any(points[one].beats(points[name]) for name in layer for one in later)
        if place:
            assert all(any(points[one].beats(points[name]) for one in layers[place - 1]) for name in layer)
        assert [points[name].milliseconds for name in layer] == sorted(
            points[name].milliseconds for name in layer
        )


@given(POINTS, st.integers(1, 12))
def test_the_best_are_as_many_as_asked_and_whole_layers_first(points: dict[str, Point], count: int) -> None:
    chosen = best(points, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    layers = fronts(points)
    whole = [name for layer in layers for name in layer]
    for layer in layers:
        if len(whole[: whole.index(layer[-1]) + 1]) <= count:
            assert set(layer) <= set(chosen)


def test_a_cut_layer_keeps_both_ends() -> None:
    points = {str(i): Point(0.1 * i, float(i)) for i in range(5)}
    assert best(points, 3) == ["0", "2", "4"]
    assert best(points, 1) == ["4"]


def test_one_without_an_ap_is_beaten_by_any_that_has_one() -> None:
    assert fronts({"a": Point(math.nan, 1.0), "b": Point(0.0, 9.0)}) == [["b"], ["a"]]
