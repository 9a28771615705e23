"""Classification losses over all (query, class) cells of a batch, of which few are positive.

A cell is positive where a query was matched with an object of that class. All others are negative, so each
loss is given as two elementwise functions: one runs over the dense logits as if every cell were negative, the
other corrects the few positive cells. No one-hot target of the logits' size is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.part_table import load_part


class ClassLoss(NamedTuple):
    """A classification loss as two elementwise functions.

    Attributes:
        negative: logits -> loss of cells that should answer 0; same shape.
        positive: (logits, quality) -> loss of cells that should answer their match's quality, the IoU of the
            predicted box with its object, in [0, 1] and without gradient; same shape.
    """

    negative: Callable[[Tensor], Tensor]
    positive: Callable[[Tensor, Tensor], Tensor]


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(x)) = -log(1 - p)."""
    return F.softplus(logits, threshold=40)  # torch's 20 cuts off 2e-9, which float64 would show


def _varifocal_negative(logits: Tensor) -> Tensor:
    """0.75 p^2 (-log(1 - p)); the weight has no gradient (VarifocalNet, arXiv 2008.13367, eq. 2)."""
    return logits.detach().sigmoid().square_().mul_(0.75) * softplus(logits)


def _varifocal_positive(logits: Tensor, quality: Tensor) -> Tensor:
    """Q times the binary cross-entropy with target q (VarifocalNet, arXiv 2008.13367, eq. 2)."""
    return quality * (softplus(logits) - quality * logits)


def _focal_negative(logits: Tensor) -> Tensor:
    """0.75 p^2 (-log(1 - p)), the weight with gradient (focal loss, arXiv 1708.02002, eq. 5)."""
    return 0.75 * logits.sigmoid().square() * softplus(logits)


def _focal_positive(logits: Tensor, quality: Tensor) -> Tensor:  # noqa: ARG001 - focal targets are 0 and 1
    """0.25 (1 - p)^2 (-log p) (focal loss, arXiv 1708.02002, eq. 5)."""
    return 0.25 * (-logits).sigmoid().square() * softplus(-logits)


def _mal_negative(logits: Tensor) -> Tensor:
    """p^1.5 (-log(1 - p)); the weight has no gradient (matchability-aware loss of DEIM, arXiv 2412.04234)."""
    return logits.detach().sigmoid().pow_(1.5) * softplus(logits)


def _mal_positive(logits: Tensor, quality: Tensor) -> Tensor:
    """Binary cross-entropy with target q^1.5 (matchability-aware loss of DEIM, arXiv 2412.04234)."""
    return softplus(logits) - quality**1.5 * logits


VARIFOCAL = ClassLoss(_varifocal_negative, _varifocal_positive)
FOCAL = ClassLoss(_focal_negative, _focal_positive)
MAL = ClassLoss(_mal_negative, _mal_positive)


def class_loss(name: str) -> ClassLoss:
    """The loss of a row of ``CLASS_LOSSES``."""
    found: ClassLoss = load_part(CLASS_LOSSES[name])
    return found


def focal_cost(logits: Tensor) -> Tensor:
    """Matcher's class cost: focal loss of the logit as a positive minus that as a negative; same shape.

    The logarithms are taken of p + 1e-8, as in the published matchers (Deformable DETR, RT-DETR): beyond
    logits of 18 the cost no longer grows, and near ties are decided as there.

    The logit is the target class's, of each (query, object) pair.
    """
    scores = logits.sigmoid()
    positive = -0.25 * (1 - scores).square() * (scores + 1e-8).log()
    negative = -0.75 * scores.square() * (1 - scores + 1e-8).log()
    return positive - negative
