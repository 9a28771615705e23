"""Losses that a step divides by what only its predictions tell, like the sum of a dense head's target scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from flexdetr.engine.distributed import Ranks
from flexdetr.engine.sentinels import PartLoss


def divided(
    losses: Sequence[PartLoss], parameters: Iterable[nn.Parameter], *, least: float, ranks: Ranks
) -> list[PartLoss]:
    """Divide a step's gradient, summed over ranks, and its losses by the sum of all shares of the divisor.

    Args:
        losses: of this rank's micro-batches; one that failed has no share.
        parameters: whose gradients are divided, in place.
        least: the divisor where the sum is smaller.
        ranks: the processes that share the step.
    """
    total = torch.stack(
        [part.total.new_zeros(()) if part.share is None else part.share.to(part.total) for part in losses]
    ).sum()
    ranks.add(total)
    total = total.clamp(min=least)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_mul_(gradients, 1 / total)
    return [
        part._replace(
            total=part.total / total, terms={name: value / total for name, value in part.terms.items()}
        )
        for part in losses
    ]
