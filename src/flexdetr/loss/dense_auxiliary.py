"""A dense head that trains beside a head with queries, and is thrown away (RT-DETRv3, arXiv 2409.08475).

A matched query supervises a few cells of the encoder; a dense head supervises each. The paper takes PP-YOLOE's head;
here it is the one in YOLOv8's form, with its assignment and its losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flexdetr.loss.companion import Share
from flexdetr.loss.criterion import Losses
from flexdetr.loss.dense import DenseCriterion
from flexdetr.model.heads.base import build_head
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.model.outputs import Observed, Targets
from flexdetr.model.precision import without_autocast

_MOMENTUM = 0.05  # a step's share in the running mean of target scores


class DenseAuxiliary(nn.Module):
    """A dense head on the encoder's levels, with its losses.

    A dense head's losses are divided by the sum of its target scores, which is known when a step is over. Beside other
    losses that is too late, so that here the divisor is the number of objects times the scores that an object was given
    in the steps before, on average.

    ``channels`` and ``strides`` are those of the encoder's levels, finest first; ``weight`` is that of all
    losses.

    Attributes:
        scores: () the sum of target scores per object, a running mean over steps; it starts at 1.
    """

    scores: Tensor

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, weight: float
    ) -> None:
        super().__init__()
        options = YOLOv8Options()
        self.head = build_head(options, channels, strides, num_classes)
        self.criterion = DenseCriterion(options, num_classes)
        self.weight = weight
        self.register_buffer("scores", torch.ones(()))
        self.begin()

    def begin(self) -> None:
        """Forget the scores of a step."""
        self._shares: list[Tensor] = []

    def forward(self, seen: Observed, images: Tensor, targets: Targets, step: Share) -> Losses:  # noqa: ARG002 - of every companion
        """The losses "dense_bce", "dense_ciou" and "dense_dfl" of a micro-batch."""
        output = self.head(seen.levels)
        with without_autocast(self.scores.device):
            losses = self.criterion(output, targets, num_boxes=step.objects * self.scores)
        if losses.share is not None:
            self._shares.append(losses.share.detach())
        return Losses(
            self.weight * losses.total,
            {f"dense_{name}": self.weight * value for name, value in losses.terms.items()},
        )

    def collected(self) -> Tensor:
        """(1,) the step's sum of target scores, relative to the divisor that was used."""
        return torch.stack(self._shares).sum()[None] if self._shares else self.scores.new_zeros(1)

    def settle(self, total: Tensor) -> None:
        """Move the running mean towards the step's; a step without objects leaves it."""
        moved = self.scores * (1 + _MOMENTUM * (total[0].to(self.scores) - 1))
        self.scores.copy_(torch.where(total[0] > 0, moved, self.scores))
