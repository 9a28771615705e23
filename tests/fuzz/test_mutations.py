"""Broken files of every kind are answered in a sentence: no traceback, no hang, no dead process, no flood of memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .answering import Product
from .kinds import KINDS
from .material import Material

_USUAL = 3  # of each kind in every run of the tests
_MANY = 50  # in the slow one

CASES = [
    pytest.param(kind, number, id=f"{kind}-{number}", marks=[pytest.mark.slow] if number >= _USUAL else [])
    for kind in KINDS
    for number in range(_MANY)
]


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_a_broken_file_is_answered_in_a_sentence(
    kind: str, number: int, material: Material, product: Product, tmp_path: Path
) -> None:
    arguments = KINDS[kind](material, tmp_path, random.Random(f"{kind}-{number}"))
    fault = product.ask(arguments, tmp_path).fault()
    assert not fault, f"flexdetr {' '.join(arguments)}\n{fault}"
