"""Plain forms for boards that are tested for themselves; boards' exports prove the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexdetr.model.distances import LargestShares
from flexdetr.model.plain import PlainLargest, PlainRMSNorm


@pytest.mark.parametrize("kind", ["different", "equal", "a few equal", "very near"])
def test_largest_without_a_sort(kind: str) -> None:
    torch.manual_seed(0)
    shares = torch.randn(2, 7, 4, 33).softmax(-1)
    if kind == "equal":
        shares = torch.full_like(shares, 1 / 33)
    elif kind == "a few equal":
        shares = (shares * 40).round() / 40
    elif kind == "very near":
        shares[..., 5] = shares.amax(-1) * (1 + 1e-7)
    largest = LargestShares(4)
    assert torch.equal(PlainLargest(largest, 33)(shares), largest(shares))


def test_rms_norm_spelt_out() -> None:
    torch.manual_seed(0)
    norm = nn.RMSNorm(16, eps=1e-6)
    nn.init.uniform_(norm.weight)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(PlainRMSNorm(norm)(x), norm(x))
