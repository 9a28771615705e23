"""Boxes as distributions of where their four edges are, measured from a reference box (D-FINE, arXiv 2410.13842).

An edge's distance is counted outwards from the reference's edge, in units of ``size / reg_scale``, size being the
reference's width for left and right and its height for top and bottom. A distribution is over ``reg_max + 1`` fixed
distances, close to each other around 0 and far apart at the ends: fine steps for small corrections (eq. 2 and 4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bin_distances(reg_max: int, up: float, reg_scale: float) -> Tensor:
    """The weighting function W(n): the distance that each bin stands for.

    With ``a = |up * reg_scale|`` and ``s = (a + 1) ** (2 / (reg_max - 2))``: ``1 - s ** (reg_max / 2 - n)`` below the
    middle, 0 in the middle, ``s ** (n - reg_max / 2) - 1`` above it; the first and the last bin are at -2a and 2a.

    Args:
        reg_max: bins less one, an even number.
        up: a bin before the ends is at about this share of ``reg_scale``, the ends at twice that.
        reg_scale: size of the reference box in the unit of the distances.

    Returns:
        (reg_max + 1,) float64, ascending.
    """
    reach = abs(up * reg_scale)
    step = (reach + 1) ** (2 / (reg_max - 2))
    upper = [step**n - 1 for n in range(1, reg_max // 2)] + [2 * reach]
    return torch.tensor([*(-x for x in reversed(upper)), 0.0, *upper], dtype=torch.float64)


def boxes_at(reference: Tensor, distances: Tensor, reg_scale: float) -> Tensor:
    """Boxes whose edges are at distances from a reference box's.

    ``distances`` (..., 4) are those of the left, top, right and bottom edge, outwards, in the unit in which the
    reference box, (..., 4) cxcywh, has the size ``reg_scale``.

    Returns:
        (..., 4) cxcywh; a size is negative where edges pass each other.
    """
    centre, size = reference[..., :2], reference[..., 2:]
    low, high = distances[..., :2], distances[..., 2:]
    unit = size / reg_scale
    return torch.cat([centre + (high - low) / 2 * unit, size + (low + high) * unit], -1)


class LargestShares(nn.Module):
    """The largest values of each row, in falling order."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, shares: Tensor) -> Tensor:
        """(..., N) -> (..., count)."""
        return shares.topk(self.count, -1).values


class EdgeDistributions(nn.Module):
    """From the logits of four distributions to a box: each edge goes to the mean of its distribution (eq. 3).

    Args:
        reg_max: bins of an edge less one.
        up: see ``bin_distances``.
        reg_scale: see ``bin_distances``.
    """

    bins: Tensor

    def __init__(self, reg_max: int, up: float, reg_scale: float) -> None:
        super().__init__()
        self.reg_scale = reg_scale
        # Computed in float64 once and rounded: powers in float32 would be off by 2e-6.
        self.register_buffer("bins", bin_distances(reg_max, up, reg_scale).float(), persistent=False)

    def forward(self, corners: Tensor, reference: Tensor) -> Tensor:
        """Logits (B, Q, 4 * bins), edges left, top, right, bottom, and (B, Q, 4) cxcywh -> (B, Q, 4) cxcywh."""
        shares = torch.unflatten(corners, -1, (4, -1)).softmax(-1)
        # A product with a matrix: OpenVINO's writer turns the products of sensitive layers around.
        distances = (shares @ self.bins.to(shares.dtype)[:, None]).squeeze(-1)
        return boxes_at(reference, distances, self.reg_scale)
