"""The loss of a classifier: cross-entropy with label smoothing, of one class or a blend of classes a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import LossConfig
from flexdetr.loss.criterion import Losses, refuse_query_losses
from flexdetr.loss.matcher import full_precision, refuse_non_finite
from flexdetr.model.heads.classifier.options import ClassifierOptions
from flexdetr.model.outputs import Output, Targets


class ClassificationCriterion(nn.Module):
    """Cross-entropy with label smoothing (arXiv 1512.00567, section 7); blended pictures have a share of each class.

    Attributes:
        own_divisor: see ``Criterion``.
        class_weights: see ``Criterion``.
    """

    own_divisor = False
    class_weights: Tensor | None = None

    def __init__(self, options: ClassifierOptions, num_classes: int) -> None:
        super().__init__()
        self.smoothing = options.smoothing
        self.num_classes = num_classes

    def forward(self, output: Output, targets: Targets, *, num_boxes: Tensor | float | None = None) -> Losses:
        """The loss of a batch, a mean over pictures.

        ``targets`` have as many labels for every picture. ``num_boxes`` are those of the whole step that the
        batch is a part of; None takes the batch's own.

        Raises:
            NonFiniteError: if logits are NaN or Inf.
            ValueError: if the head does not have ``num_classes`` logits.
        """
        logits = full_precision(output.final.logits[:, 0])
        if logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"the output has {logits.shape[-1]} classes, but the criterion expects {self.num_classes}"
            )
        refuse_non_finite(torch.isfinite(logits).all(1), targets, "the logits of {} pictures")
        wanted = label_shares(targets, self.num_classes, logits)
        wanted = wanted * (1 - self.smoothing) + self.smoothing / self.num_classes
        labels = targets.num_objects
        pictures = len(logits) if num_boxes is None else num_boxes * len(logits) / max(1, labels)
        if self.class_weights is not None:
            wanted = wanted * self.class_weights
        loss = -(wanted * F.log_softmax(logits, -1)).sum() / pictures
        return Losses(loss, {"cross_entropy": loss.detach()})

    def at(self, done: float) -> None:
        """Nothing here depends on how far the run is."""


def label_shares(targets: Targets, num_classes: int, like: Tensor) -> Tensor:
    """(B, C) shares of the classes in each picture, in the type and on the device of ``like``; each row adds to 1."""
    shares = like.new_zeros(len(targets), num_classes)
    rows = torch.repeat_interleave(
        torch.arange(len(targets), device=like.device),
        torch.tensor([len(labels) for labels in targets.labels], device=like.device),
    )
    labels = torch.cat(targets.labels)
    weights = like.new_ones(len(labels)) if targets.shares is None else torch.cat(targets.shares).to(like)
    return shares.index_put_((rows, labels), weights, accumulate=True)


def objective(config: LossConfig, options: ClassifierOptions, num_classes: int) -> ClassificationCriterion:
    """The loss of a classifier, whose section names all of it.

    Raises:
        ConfigError: if the section ``loss``, which is that of heads with queries, was changed.
    """
    refuse_query_losses(config, f"the losses of head={options.name} are cross-entropy with head.smoothing")
    return ClassificationCriterion(options, num_classes)
