"""Distribution focal loss: the two bins around a distance should share its probability."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """-(k + 1 - t) log p_k - (t - k) log p_(k+1) with k = floor(t) (generalised focal loss, arXiv 2006.04388, eq. 6).

    Args:
        logits: (..., bins) of a distribution over 0, 1, ..., bins - 1.
        target: (...) distances in the unit of a bin; what lies outside of 0 to bins - 1.01 is moved there.

    Returns:
        (...) losses.
    """
    bins = logits.shape[-1]
    target = target.clamp(0, bins - 1.01)
    lower = target.floor().long()
    return two_bins_loss(logits, lower, target - lower)


def two_bins_loss(logits: Tensor, lower: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy of distributions with two neighbouring bins.

    Args:
        logits: (..., bins).
        lower: (...) int64 index of the lower bin.
        share: (...) what the upper one should have, in [0, 1].

    Returns:
        (...) losses.
    """
    log_p = F.log_softmax(logits, -1)
    below = log_p.gather(-1, lower[..., None]).squeeze(-1)
    above = log_p.gather(-1, lower[..., None] + 1).squeeze(-1)
    return -(1 - share) * below - share * above
