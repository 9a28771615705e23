"""The training loss: every supervised layer is matched, and the same terms are taken from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flexdetr.boxes import compare
from flexdetr.config import ConfigError, LossConfig, nearest
from flexdetr.loss.box_family import box_loss, known_options, option_names, unknown_option
from flexdetr.loss.class_losses import CLASS_LOSSES
from flexdetr.loss.matcher import Match, Matcher, denoising_match, full_precision, to_device
from flexdetr.loss.terms import class_loss
from flexdetr.model.outputs import Output, Prediction, Targets


class Losses(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: what to call ``backward`` on; the sum of ``terms``.
        terms: each term of each supervised layer, weighted and normalised, without gradient, still on the
            device. Names are "varifocal" (or "focal", "mal"), "l1" and the box loss's own, with a suffix for
            all layers but the final one: ".aux0", ".encoder", ".denoising0".
    """

    total: Tensor
    terms: dict[str, Tensor]


class Supervised(NamedTuple):
    """One layer that the loss looks at.

    Attributes:
        name: "final", "aux0", "encoder", "denoising0" ...
        prediction: its answer.
        match: which of its queries answer for which objects.
        copies: how often each object is matched; the layer's terms are divided by this and the number of
            boxes.
    """

    name: str
    prediction: Prediction
    match: Match
    copies: int


class Criterion(nn.Module):
    """Class loss, L1 loss and box loss over all supervised layers (RT-DETR, arXiv 2304.08069, section 4).

    Args:
        config: which losses, with which weights; see ``LossConfig``.
        num_classes: classes of the head.

    Raises:
        ConfigError: where a loss or one of its options is unknown.
    """

    def __init__(self, config: LossConfig, num_classes: int) -> None:
        super().__init__()
        if config.classification not in CLASS_LOSSES:
            raise ConfigError(nearest(config.classification, CLASS_LOSSES, "class loss"))
        self.config = config
        self.num_classes = num_classes
        for option in config.box_options:
            if option not in option_names(config.box) + option_names(config.matcher_box):
                raise ConfigError(unknown_option(option, (config.box, config.matcher_box)))
        self.matcher = Matcher(config)
        self.class_loss = class_loss(config.classification)
        self.box_loss = box_loss(config.box, **known_options(config.box, config.box_options))

    def forward(self, output: Output, targets: Targets, *, num_boxes: Tensor | float | None = None) -> Losses:
        """The loss of a batch; with a single wait for the device, when costs are matched.

        Args:
            output: a detector's answer in training mode.
            targets: the batch's objects, on the output's device; images without any are fine, and so is a
                batch without any: its box terms are zeros that are still part of the graph.
            num_boxes: what terms are divided by, at least 1; None takes the batch's own number of objects.
                Processes that train together pass the mean of their numbers.

        Raises:
            NonFiniteError: where predictions or targets of an image with objects are NaN or Inf.
            ValueError: where the head does not have ``num_classes`` logits.
        """
        classes = output.final.logits.shape[-1]
        if classes != self.num_classes:
            raise ValueError(
                f"the output has {classes} classes, but the criterion expects {self.num_classes}"
            )
        layers = list(supervised_layers(output, targets, self.matcher))
        sums = self._sums(layers, targets)
        if num_boxes is None:
            num_boxes = targets.num_objects
        boxes = num_boxes.to(sums).clamp(min=1) if isinstance(num_boxes, Tensor) else max(num_boxes, 1)
        weights = (self.config.classification_weight, self.config.l1_weight, self.config.box_weight)
        factors = [[weight / layer.copies for layer in layers] for weight in weights]
        weighted = sums * to_device(torch.tensor(factors, dtype=sums.dtype), sums.device) / boxes
        names = (self.config.classification, "l1", self.config.box)
        labels = [_label(name, layer.name) for name in names for layer in layers]
        return Losses(weighted.sum(), dict(zip(labels, weighted.detach().flatten().unbind(), strict=True)))

    def _sums(self, layers: Sequence[Supervised], targets: Targets) -> Tensor:
        """Unweighted sums (3, number of layers) of class, L1 and box loss.

        All layers' queries are put side by side, so that each loss is computed once for all of them.
        """
        queries = [layer.prediction.logits.shape[1] for layer in layers]
        matched = [len(layer.match.objects) for layer in layers]
        logits = full_precision(torch.cat([layer.prediction.logits for layer in layers], 1))
        boxes = full_precision(torch.cat([layer.prediction.boxes for layer in layers], 1))
        images, rows, objects = to_device(_indices(layers, queries), logits.device)

        predicted = boxes[images, rows]
        wanted = torch.cat(targets.boxes)[objects].to(predicted.dtype)
        pair = compare(predicted, wanted)
        positive = logits[images, rows, torch.cat(targets.labels)[objects]]
        class_loss = self.class_loss
        correction = class_loss.positive(positive, pair.iou.detach()) - class_loss.negative(positive)
        dense = class_loss.negative(logits).sum((0, 2))
        return torch.stack(
            [
                _segment_sums(dense, queries) + _segment_sums(correction, matched),
                _segment_sums((predicted - wanted).abs().sum(-1), matched),
                _segment_sums(self.box_loss.measure(pair), matched),
            ]
        )


def supervised_layers(output: Output, targets: Targets, matcher: Matcher) -> Iterator[Supervised]:
    """Every layer that has a loss: final, auxiliary, encoder and denoising; a new head is one more yield.

    Layers of matching queries are each matched on their own, all in one go; denoising queries know their
    objects.
    """
    free = {"final": output.final}
    free |= {f"aux{index}": prediction for index, prediction in enumerate(output.aux)}
    if output.encoder is not None:
        free["encoder"] = output.encoder
    copies = {"encoder": matcher.config.encoder_copies or 1}
    for name, match in matcher(free, targets, copies=copies).items():
        yield Supervised(name, free[name], match, copies.get(name, 1))
    if output.plan is not None:
        match = denoising_match(output.plan, targets)
        for index, prediction in enumerate(output.denoising):
            yield Supervised(f"denoising{index}", prediction, match, output.plan.num_groups)


def _label(term: str, layer: str) -> str:
    return term if layer == "final" else f"{term}.{layer}"


def _indices(layers: Sequence[Supervised], queries: Sequence[int]) -> Tensor:
    """(3, P) int64 on the host: of each pair the image, the query among all layers' queries, the object."""
    starts = np.cumsum([0, *queries[:-1]])
    rows = [layer.match.queries + start for layer, start in zip(layers, starts, strict=True)]
    images = [layer.match.images for layer in layers]
    objects = [layer.match.objects for layer in layers]
    return torch.from_numpy(np.stack([np.concatenate(part) for part in (images, rows, objects)]))


def _segment_sums(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums (number of sizes,) of consecutive pieces of ``values``; one operation for a run of equal sizes."""
    sums, start = [], 0
    for size, run in groupby(sizes):
        pieces = len(list(run))
        sums.append(values[start : start + pieces * size].view(pieces, size).sum(1))
        start += pieces * size
    return torch.cat(sums)
