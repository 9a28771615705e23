"""The loss of a dense head: classes by binary cross-entropy, boxes by an IoU loss and by their distributions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexdetr.boxes import cxcywh_to_xyxy
from flexdetr.config import ConfigError, LossConfig
from flexdetr.loss.assigner import assign
from flexdetr.loss.box_family import BoxLoss, option_names, unknown_option
from flexdetr.loss.criterion import Losses, refuse_query_losses
from flexdetr.loss.distribution_focal import distribution_focal_loss
from flexdetr.loss.matcher import full_precision, refuse_non_finite
from flexdetr.loss.terms import softplus
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.model.outputs import Output, Prediction, Targets


class DenseCriterion(nn.Module):
    """Task-aligned assignment, then class, box and distribution losses, as YOLOv8 weighs them.

    All sums are divided by the sum of the target scores, at least 1 (TOOD, arXiv 2108.07755, section 3.3).

    Attributes:
        own_divisor: see ``Criterion``.
        class_weights: see ``Criterion``.

    Raises:
        ConfigError: if the box loss or one of its options is unknown.
    """

    own_divisor = True
    class_weights: Tensor | None = None

    def __init__(self, options: YOLOv8Options, num_classes: int) -> None:
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        for option in options.box_options:
            if option not in option_names(options.box_loss):
                raise ConfigError(unknown_option(option, (options.box_loss,)))
        self.box_loss = BoxLoss(options.box_loss, **options.box_options)

    def forward(self, output: Output, targets: Targets, *, num_boxes: Tensor | float | None = None) -> Losses:
        """The loss of a batch.

        Args:
            output: a dense head's answer in training mode.
            targets: the batch's objects, on the output's device; images without any are fine, and so is a batch without
                any: only its class loss is not 0.
            num_boxes: None divides by the batch's own sum of target scores. A number says that the batch is a part of a
                step: then sums are divided by this number, and ``Losses.share`` says what of the step's divisor the
                batch has.

        Raises:
            NonFiniteError: if predictions of an image with objects are NaN or Inf.
            ValueError: if the head does not have ``num_classes`` logits.
        """
        final = output.final
        classes = final.logits.shape[-1]
        if classes != self.num_classes:
            raise ValueError(
                f"the output has {classes} classes, but the criterion expects {self.num_classes}"
            )
        _check(final, targets)
        sums, total = self._sums(final, targets)
        options = self.options
        weights = sums.new_tensor([options.class_weight, options.box_weight, options.dfl_weight])
        names = ("bce", options.box_loss, "dfl")
        if num_boxes is None:
            weighted, share = weights * sums / total.clamp(min=1), None
        else:
            weighted, share = weights * sums / num_boxes, total / num_boxes
        return Losses(weighted.sum(), dict(zip(names, weighted.detach().unbind(), strict=True)), share)

    def at(self, done: float) -> None:
        """Nothing here depends on how far the run is."""

    def _sums(self, final: Prediction, targets: Targets) -> tuple[Tensor, Tensor]:
        """Sums (3,) of class, box and distribution loss, a cell's box terms times its score; sum () of the scores."""
        if final.corners is None or final.reference is None:
            raise ValueError("the loss needs a prediction of training mode, with its distributions")
        logits, boxes, corners = (full_precision(part) for part in (final.logits, final.boxes, final.corners))
        cells = final.reference[0].to(boxes.dtype)
        # In sides of the finest level's cells, unlike in fractions, the image keeps its proportions, which the aspect
        # term of CIoU sees.
        across = 1 / cells[0, 2:].repeat(2)
        labels, objects = torch.cat(targets.labels), torch.cat(targets.boxes).to(boxes.dtype) * across
        counts = [len(each) for each in targets.labels]
        options = self.options
        found = assign(
            logits,
            boxes * across,
            cells[:, :2] * across[:2],
            labels,
            objects,
            counts,
            top_k=options.top_k,
            alpha=options.alpha,
            beta=options.beta,
        )
        chosen, wanted = boxes[found.images, found.cells] * across, objects[found.objects]
        score = found.scores
        positive = logits[found.images, found.cells, labels[found.objects]]
        negative, agreed = softplus(logits), score * positive
        if self.class_weights is not None:
            negative = negative * self.class_weights
            agreed = agreed * self.class_weights[labels[found.objects]]
        class_sum = negative.sum() - agreed.sum()
        # Losses that measure in fractions of the image get those of its longer side.
        longer = across.max()
        box_sum = (score * self.box_loss(chosen / longer, wanted / longer)).sum()
        cell = cells[found.cells] * across
        edges = cxcywh_to_xyxy(wanted)
        distances = torch.cat([cell[:, :2] - edges[:, :2], edges[:, 2:] - cell[:, :2]], -1)
        bins = corners[found.images, found.cells]
        bins = bins.reshape(len(bins), 4, options.bins)
        sides = distribution_focal_loss(bins, distances / cell[:, 2:].repeat(1, 2)).mean(-1)
        return torch.stack([class_sum, box_sum, (score * sides).sum()]), score.sum()


def _check(final: Prediction, targets: Targets) -> None:
    """Refuse predictions that are not finite; images without objects show them in the loss."""
    finite = torch.isfinite(final.logits).flatten(1).all(1) & torch.isfinite(final.boxes).flatten(1).all(1)
    refuse_non_finite(finite, targets, "the predictions of {} images")


def objective(config: LossConfig, options: YOLOv8Options, num_classes: int) -> DenseCriterion:
    """The loss of a dense head, whose section names all of it.

    Raises:
        ConfigError: if the section ``loss``, which is that of heads with queries, was changed.
    """
    refuse_query_losses(
        config,
        f"the losses of head={options.name} are head.box_loss, head.box_options, head.class_weight, head.box_weight "
        "and head.dfl_weight",
    )
    return DenseCriterion(options, num_classes)
