"""Class losses, against their formulas written densely."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.terms import class_loss, focal_cost


def dense(name: str, logits: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """The loss of every cell, as papers write it with a full target."""
    if name == "focal":
        scores = torch.where(positive, logits, -logits).sigmoid()  # of the right answer
        weight = torch.where(positive, 0.25, 0.75) * (1 - scores) ** 2
        return weight * F.binary_cross_entropy_with_logits(logits, positive.to(logits), reduction="none")
    scores = logits.sigmoid().detach()
    if name == "varifocal":
        weight = torch.where(positive, target, 0.75 * scores**2)
        return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")
    weight = torch.where(positive, 1.0, scores**1.5)
    return F.binary_cross_entropy_with_logits(logits, target**1.5, weight=weight, reduction="none")


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_two_parts_are_the_dense_loss(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, dtype=torch.float64, generator=generator) * 6
    logits = torch.cat([logits, torch.tensor([-60.0, 60.0, 0.0], dtype=torch.float64)]).requires_grad_()
    positive = torch.rand(len(logits), generator=generator) < 0.3
    quality = torch.rand(len(logits), dtype=torch.float64, generator=generator) * positive
    expected = dense(name, logits, quality, positive)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    loss = class_loss(name)
    actual = torch.where(positive, loss.positive(logits, quality), loss.negative(logits))
    (gradient,) = torch.autograd.grad(actual.sum(), logits)
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    loss = class_loss(name)
    total = loss.positive(logits, torch.rand(4)).sum() + loss.negative(logits).sum()
    total.backward()
    assert torch.isfinite(total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_focal_cost_falls_with_the_score_and_stays_finite() -> None:
    cost = focal_cost(torch.linspace(-200, 200, 101))
    assert torch.isfinite(cost).all()
    assert (cost.diff() <= 0).all()
