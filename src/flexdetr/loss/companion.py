"""What trains beside a detector and is thrown away: modules that look at a forward pass and add to the loss."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from flexdetr.loss.criterion import Losses
from flexdetr.model.outputs import Observed, Targets


class Share(NamedTuple):
    """A micro-batch's place in its step.

    Objects, at least 1, and images are those of the whole step.
    """

    objects: float
    images: int


class Companion(Protocol):
    """A module that learns with a detector, in training only; an ``nn.Module`` whose state is all that a resume needs.

    A step calls ``begin`` (again where it begins again in smaller micro-batches), the module for each micro-batch, and
    ``settle``. What a micro-batch adds to the loss may depend on numbers of the whole step that are known before it,
    and on those of earlier steps, but not on how the step is divided.
    """

    def begin(self) -> None:
        """A step begins: forget what was collected of it."""
        ...

    def __call__(self, seen: Observed, images: Tensor, targets: Targets, step: Share) -> Losses:
        """The share of a micro-batch; it is called where the model's autocast is active.

        Args:
            seen: the detector's forward pass.
            images: (B, 3, H, W) uint8 RGB, on the device.
            targets: the objects, on the device.
            step: what is known of the whole step.

        Raises:
            NonFiniteError: if predictions are NaN or Inf.
        """
        ...

    def collected(self) -> Tensor:
        """(n,) numbers of this step's micro-batches, behind the backward pass; they are added up over processes."""
        ...

    def settle(self, total: Tensor) -> None:
        """The step is done: ``total`` is ``collected`` of all processes."""
        ...
