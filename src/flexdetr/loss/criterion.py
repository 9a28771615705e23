"""The training loss: every supervised layer is matched, and the same terms are taken from each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flexdetr.boxes import compare
from flexdetr.classes import ClassError, Classes
from flexdetr.config import ConfigError, LossConfig, nearest
from flexdetr.loss.box_family import BoxLoss, known_options, option_names, unknown_option
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.matcher import Matcher, full_precision
from flexdetr.loss.supervision import Part, Supervised, on_device, segment_sums, supervised_layers, weighted
from flexdetr.loss.terms import class_loss
from flexdetr.model.heads import HEADS, HeadOptions
from flexdetr.model.outputs import Output, Targets
from flexdetr.part_table import load_part


class Losses(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: what to call ``backward`` on; the sum of ``terms``.
        terms: each term of each supervised layer, weighted and normalised, without gradient, still on the
            device. Names are "varifocal" (or "focal", "mal"), "l1", the box loss's own and those of the head's own
            terms, with a suffix for all layers but the final one: ".aux0", ".encoder", ".denoising0".
        share: of a criterion with a divisor of its own, what this batch adds to it; the gradient of the whole step is
            divided by the sum of the shares, which is known after the last batch only. None: there is no such divisor.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    share: Tensor | None = None


class Term(Protocol):
    """What a head's loss has beside class, L1 and box."""

    def __call__(self, layers: Sequence[Supervised], targets: Targets) -> Iterator[Part]:
        """Sums over those of the layers that have what the term needs."""
        ...


class Criterion(nn.Module):
    """Class loss, L1 loss, box loss and a head's own terms over all supervised layers.

    RT-DETR, arXiv 2304.08069, section 4.

    ``terms`` are what the head adds; ``unite`` takes box terms over the union of the layers' matches, see
    ``supervised_layers``.

    Attributes:
        own_divisor: whether the losses of a part of a step come with a share of the step's divisor.
        class_weights: (C,) what the class loss of each class is multiplied by, on the predictions' device; None is 1.

    Raises:
        ConfigError: if a loss or one of its options is unknown.
    """

    own_divisor = False
    class_weights: Tensor | None = None

    def __init__(
        self, config: LossConfig, num_classes: int, *, terms: Iterable[Term] = (), unite: bool = False
    ) -> None:
        super().__init__()
        if config.classification not in CLASS_LOSSES:
            raise ConfigError(nearest(config.classification, CLASS_LOSSES, "class loss"))
        self.config = config
        self.num_classes = num_classes
        self.terms = tuple(terms)
        self.unite = unite
        for option in config.box_options:
            if option not in option_names(config.box) + option_names(config.matcher_box):
                raise ConfigError(unknown_option(option, (config.box, config.matcher_box)))
        self.matcher = Matcher(config)
        self.class_loss = class_loss(config.classification)
        self.box_loss = BoxLoss(config.box, **known_options(config.box, config.box_options))

    def forward(self, output: Output, targets: Targets, *, num_boxes: Tensor | float | None = None) -> Losses:
        """The loss of a batch; with a single wait for the device, when costs are matched.

        Args:
            output: a detector's answer in training mode.
            targets: the batch's objects, on the output's device; images without any are fine, and so is a
                batch without any: its box terms are zeros that are still part of the graph.
            num_boxes: what terms are divided by, at least 1; None takes the batch's own number of objects.
                Processes that train together pass the mean of their numbers.

        Raises:
            NonFiniteError: if predictions or targets of an image with objects are NaN or Inf.
            ValueError: if the head does not have ``num_classes`` logits.
        """
        classes = output.final.logits.shape[-1]
        if classes != self.num_classes:
            raise ValueError(
                f"the output has {classes} classes, but the criterion expects {self.num_classes}"
            )
        layers = list(supervised_layers(output, targets, self.matcher, unite=self.unite))
        parts = self._parts(layers, targets)
        for term in self.terms:
            parts.extend(term(layers, targets))
        if num_boxes is None:
            num_boxes = targets.num_objects
        boxes = (
            num_boxes.to(parts[0].sums).clamp(min=1) if isinstance(num_boxes, Tensor) else max(num_boxes, 1)
        )
        return Losses(*weighted(parts, boxes))

    def at(self, done: float) -> None:
        """Take what holds from this share of the run on, in [0, 1]."""
        late = self.config.late_matcher
        self.matcher.late = late is not None and done >= late

    def _parts(self, layers: Sequence[Supervised], targets: Targets) -> list[Part]:
        """Class, L1 and box loss of all layers.

        All layers' queries are put side by side, so that each loss is computed once for all of them.
        """
        queries = [layer.prediction.logits.shape[1] for layer in layers]
        starts = np.cumsum([0, *queries[:-1]]).tolist()
        logits = full_precision(torch.cat([layer.prediction.logits for layer in layers], 1))
        boxes = full_precision(torch.cat([layer.prediction.boxes for layer in layers], 1))
        wanted_labels, wanted_boxes = torch.cat(targets.labels), torch.cat(targets.boxes)

        pairs = on_device([layer.match for layer in layers], starts, logits.device)
        predicted = boxes[pairs.images, pairs.rows]
        wanted = wanted_boxes[pairs.objects].to(predicted.dtype)
        pair = compare(predicted, wanted)
        positive = logits[pairs.images, pairs.rows, wanted_labels[pairs.objects]]
        class_loss = self.class_loss
        correction = class_loss.positive(positive, pair.iou.detach()) - class_loss.negative(positive)
        dense = class_loss.negative(logits)
        if self.class_weights is not None:
            correction = correction * self.class_weights[wanted_labels[pairs.objects]]
            dense = dense * self.class_weights
        dense = dense.sum((0, 2))
        class_sums = segment_sums(dense, queries) + segment_sums(correction, pairs.sizes)

        if any(layer.box_match is not layer.match for layer in layers):
            pairs = on_device([layer.box_match for layer in layers], starts, logits.device)
            predicted = boxes[pairs.images, pairs.rows]
            wanted = wanted_boxes[pairs.objects].to(predicted.dtype)
            pair = compare(predicted, wanted)
        l1_sums = segment_sums((predicted - wanted).abs().sum(-1), pairs.sizes)
        box_sums = segment_sums(self.box_loss.measure(pair), pairs.sizes)

        config, names = self.config, [layer.name for layer in layers]
        return [
            Part(
                config.classification,
                names,
                class_sums,
                [config.classification_weight / layer.copies for layer in layers],
            ),
            Part("l1", names, l1_sums, [config.l1_weight * layer.box_share for layer in layers]),
            Part(config.box, names, box_sums, [config.box_weight * layer.box_share for layer in layers]),
        ]


class Objective(Protocol):
    """A head's training loss; an ``nn.Module``.

    Attributes:
        own_divisor: whether the losses of a part of a step come with a share of the step's divisor.
        class_weights: (C,) what the class loss of each class is multiplied by, on the predictions' device; None is 1.
    """

    own_divisor: bool
    class_weights: Tensor | None

    def __call__(
        self, output: Output, targets: Targets, *, num_boxes: Tensor | float | None = None
    ) -> Losses:
        """The loss of a batch; see ``Criterion.forward``."""
        ...

    def at(self, done: float) -> None:
        """Take what holds from this share of the run on, in [0, 1]."""
        ...

    def to(self, device: torch.device) -> Objective:
        """The same on a device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Go on from that."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """What processes that train together average."""
        ...


def objective(config: LossConfig, options: HeadOptions, num_classes: int) -> Criterion:  # noqa: ARG001 - of every head
    """The loss of heads that have class, L1 and box terms alone."""
    return Criterion(config, num_classes)


def class_weights(weights: Mapping[str, float], classes: Classes) -> Tensor | None:
    """``data.class_weights`` as a tensor (C,); None if there are none.

    Raises:
        ConfigError: for a class that the detector does not have, with the nearest one.
    """
    if not weights:
        return None
    values = torch.ones(len(classes))
    for name, weight in weights.items():
        try:
            values[classes.index_of_name(name)] = weight
        except ClassError as error:
            raise ConfigError(f"data.class_weights: {error}") from None
    return values


def build_criterion(config: LossConfig, options: HeadOptions, num_classes: int) -> Objective:
    """The loss of a head: an ``nn.Module`` that is called like ``Criterion``.

    ``options`` are the head's section of the configuration; its row of ``HEADS`` names the objective.

    Raises:
        ConfigError: if a loss or one of its options is unknown.
    """
    make: Callable[[LossConfig, HeadOptions, int], Objective] = load_part(HEADS[options.name].objective)
    return make(config, options, num_classes)


_DERIVED = {"encoder_copies"}  # a run derives it for every head


def refuse_query_losses(config: LossConfig, instead: str) -> None:
    """For heads whose own section names their losses: refuse a section ``loss``, that of heads with queries.

    ``instead`` is a clause that says where this head's losses are.

    Raises:
        ConfigError: if something in it was changed.
    """
    plain = LossConfig()
    for name in LossConfig.model_fields:
        if name not in _DERIVED and getattr(config, name) != getattr(plain, name):
            raise ConfigError(f"loss.{name} is for heads with queries; {instead}")
