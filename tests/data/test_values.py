from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.data.values import flag, identity, number, shown, whole

ODD = (
    None,
    [],
    {},
    [1],
    {"id": 1},
    True,
    False,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "x",
    "nan",
    "inf",
    "1_0",
    "0x10",
)


@pytest.mark.parametrize("value", [*ODD, "1e999", "1" * 5000, 10**400])
def test_what_is_no_finite_number(value):
    assert number(value) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_and_its_text_are_one(value):
    assert number(value) == number(repr(value)) == number(f" {value!r} ") == value


@given(st.integers(-(2**52), 2**52))
def test_one_id_in_every_writing(value):
    writings = (value, float(value), str(value), f" {value} ", f"{value}.0")
    assert {identity(writing) for writing in writings} == {value}
    assert {whole(writing) for writing in writings} == {value}


def test_ids_that_are_texts_stay_apart():
    assert identity(" cam1/0001 ") == "cam1/0001"
    assert identity("1.5") == "1.5"
    assert identity(2**64) == 2**64
    assert [identity(value) for value in (None, [1], {}, True, math.nan, 1.5, "")] == [None] * 7


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists))
def test_nothing_is_refused_with_an_exception(value):
    for read in (number, whole, identity, flag, shown):
        read(value)


def test_flags():
    for value in (None, False, 0, "0", "0.0", 0.0, "false", "False", "no", ""):
        assert flag(value) is False
    for value in (True, 1, "1", 1.0, "true", "Yes"):
        assert flag(value) is True
    for value in (2, "x", [0], {}, math.nan, -1):
        assert flag(value) is None


def test_long_values_are_cut_in_messages():
    assert shown("abc") == "'abc'"
    assert len(shown(["x"] * 1000)) < 150
