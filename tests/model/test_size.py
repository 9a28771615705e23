"""Sizes are counted on the models themselves, and the table that ships with the package says the same."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from flexdetr.model.size import measure
from flexdetr.presets import MODELS

TABLE = json.loads(resources.files("flexdetr").joinpath("model_sizes.json").read_text("utf-8"))
# Published GFLOPs and millions of parameters (RT-DETR, arXiv 2304.08069), rounded there.
PUBLISHED = {"rtdetr_r18": (60, 20), "rtdetr_hgnetv2_l": (110, 32), "rtdetr_hgnetv2_x": (234, 67)}
# parameters() of D-FINE's and DEIM's models (FACTS 9b), which count two constants, ``up`` and ``reg_scale``.
COUNTED = {"n": 3_782_693, "s": 10_321_877, "m": 19_590_064, "l": 31_289_848, "x": 62_715_480}
QUICK = ("rtdetr_r18", "flexdetr_nano")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_the_table_says_what_is_measured(name: str) -> None:
    size = measure(MODELS[name], 1000 if MODELS[name].task == "classify" else 80)
    assert TABLE[name] == {"params": size.params, "gflops": pytest.approx(size.gflops, abs=1e-3)}, (
        "run `make sizes`"
    )


def test_the_table_has_every_preset() -> None:
    assert list(TABLE) == list(MODELS), "run `make sizes`"


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_sizes_are_the_published_ones(name: str, published: tuple[float, float]) -> None:
    gflops, millions = published
    assert TABLE[name]["gflops"] == pytest.approx(gflops, rel=0.02)
    assert TABLE[name]["params"] / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.parametrize("family", ["dfine", "deim"])
@pytest.mark.parametrize(("size", "count"), COUNTED.items())
def test_sizes_of_dfine_are_the_counted_ones(family: str, size: str, count: int) -> None:
    assert TABLE[f"{family}_{size}"]["params"] == count - 2
