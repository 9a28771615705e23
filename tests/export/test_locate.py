from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.export.locate import search


@settings(deadline=None)
@given(st.integers(1, 400), st.data())
def test_the_first_wrong_place_is_found_with_few_probes(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))  # count: nothing is wrong
    asked: list[int] = []
    most = 0

    def errors(places: Sequence[int]) -> list[float]:
        nonlocal most
        most = max(most, len(places))
        asked.extend(places)
        return [1.0 if place >= first else 0.0 for place in places]

    found = search(count, errors, 0.5, probes=12)
    assert found == (None if first == count else (first, 1.0))
    assert most <= 12
    assert len(asked) <= 12 * 4


def test_a_limit_is_what_is_not_reached_by_rounding() -> None:
    errors = [1e-6, 2e-6, 1e-3, 2e-3]
    assert search(4, lambda places: [errors[i] for i in places], 5e-4) == (2, 1e-3)
    assert search(4, lambda places: [errors[i] for i in places], 1e-2) is None
