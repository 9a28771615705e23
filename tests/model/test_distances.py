"""Distances of edges and their distributions, against D-FINE's own arrays."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.model.distances import EdgeDistributions, bin_distances, boxes_at


def test_bins_are_the_published_ones(golden: ModuleType) -> None:
    arrays = golden.arrays("dfine_pieces")
    names = [name for name in arrays if name.startswith("w.")]
    assert len(names) == 5
    for name in names:
        reg_max, rest = name.removeprefix("w.").split(".", 1)
        up, _, reg_scale = rest.rpartition(".")
        want = torch.from_numpy(arrays[name])
        torch.testing.assert_close(
            bin_distances(int(reg_max), float(up), float(reg_scale)), want, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("reg_scale", [4, 8])
def test_distributions_become_the_published_boxes(golden: ModuleType, reg_scale: int) -> None:
    arrays = {name: torch.from_numpy(value) for name, value in golden.arrays("dfine_pieces").items()}
    points, logits = arrays["points"].double(), arrays["logits"]
    shares = logits.double().view(-1, 4, 33).softmax(-1)
    distances = shares @ bin_distances(32, 0.5, reg_scale)
    torch.testing.assert_close(distances, arrays[f"integral.{reg_scale}"], rtol=0, atol=1e-12)
    want = arrays[f"distance2bbox.{reg_scale}"]
    torch.testing.assert_close(
        boxes_at(points, arrays[f"integral.{reg_scale}"], reg_scale), want, rtol=0, atol=1e-12
    )
    single = EdgeDistributions(32, 0.5, reg_scale)(logits.float()[None], points.float()[None])[0]
    torch.testing.assert_close(single.double(), want, rtol=0, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.floats(0.05, 3), st.floats(0.5, 20))
def test_bins_ascend_and_mirror_each_other(half: int, up: float, reg_scale: float) -> None:
    bins = bin_distances(2 * half, up, reg_scale)
    assert len(bins) == 2 * half + 1
    assert (bins.diff() > 0).all()
    torch.testing.assert_close(bins, -bins.flip(0))
    assert bins[-1] == pytest.approx(2 * up * reg_scale)


def test_even_distributions_give_the_reference() -> None:
    reference = torch.tensor([[[0.4, 0.5, 0.2, 0.1]]])
    boxes = EdgeDistributions(32, 0.5, 4.0)(torch.zeros(1, 1, 132), reference)
    torch.testing.assert_close(boxes, reference)
