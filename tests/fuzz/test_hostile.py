"""Files that somebody made to do harm are refused in a sentence, and nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .answering import Product
from .hostile_files import HOSTILE, Place
from .material import Material

CASES = [pytest.param(make, says, id=make.__name__) for make, says in HOSTILE.items()]


@pytest.mark.parametrize(("make", "says"), CASES)
def test_a_hostile_file_is_refused(
    make: Callable[[Place], list[list[str]]],
    says: str,
    material: Material,
    product: Product,
    tmp_path: Path,
) -> None:
    folder, canary = tmp_path / "hostile", tmp_path / "canary"
    folder.mkdir()
    for arguments in make(Place(material, folder, canary)):
        answer = product.ask(arguments, folder)
        shown = f"flexdetr {' '.join(arguments)}\n{answer.out[-2000:]}\n{answer.err[-3000:]}"
        assert not answer.fault(), f"{shown}\n{answer.fault()}"
        assert not canary.exists(), f"executed by: {shown}"
        assert answer.status in (1, 2), shown
        assert says in answer.out + answer.err, shown
        assert "hunter2" not in answer.out + answer.err


def test_code_that_is_typed_is_called(material: Material, product: Product, tmp_path: Path) -> None:
    """The canary would appear: what is typed is the person's own."""
    canary = tmp_path / "canary"
    options = ["--set", "backbone=subprocess:getoutput", "--set", f"backbone.options.cmd=touch {canary}"]
    command = ["train", str(material.data("coco")), "--model", "flexdetr_pico", "--out", "new", *options]
    answer = product.ask(command, tmp_path)
    assert answer.status in (1, 2), answer
    assert canary.exists(), answer
