"""Which query answers for which object: one minimal-cost assignment for each supervised layer and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flexdetr.config import LossConfig
from flexdetr.loss.box_family import box_loss, option_names
from flexdetr.loss.terms import focal_cost
from flexdetr.model.outputs import DenoisingPlan, Prediction, Targets


class NonFiniteError(FloatingPointError):
    """NaN or Inf where training cannot go on; the message says where, and in which images.

    Attributes:
        image_ids: identifiers of the images that it happened in.
    """

    def __init__(self, message: str, image_ids: Sequence[int | str] = ()) -> None:
        super().__init__(message)
        self.image_ids = tuple(image_ids)


class Match(NamedTuple):
    """Matched pairs of one supervised layer, as host arrays (P,) int64, image by image, queries ascending.

    Attributes:
        images: index of the image in the batch.
        queries: index of the query in its image.
        objects: index of the object in the batch's objects, all images' one after the other.
    """

    images: NDArray[np.int64]
    queries: NDArray[np.int64]
    objects: NDArray[np.int64]


class Matcher:
    """Hungarian matching on a class cost, an L1 cost and a box cost (DETR, arXiv 2005.12872, eq. 1).

    The cost of a query and an object is ``class_cost`` times the focal cost of the object's class, plus
    ``l1_cost`` times the L1 distance of the boxes, plus ``box_cost`` times (box loss - 1), which for GIoU is
    -GIoU. WIoU v2 and v3 take 1 as their mean here, so that the same predictions are always matched in the
    same way.

    Args:
        config: costs and the name of the box loss; of ``box_options`` it takes those that fit
            ``matcher_box``.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        known = option_names(config.matcher_box)
        options = {key: value for key, value in config.box_options.items() if key in known}
        self._box_loss = box_loss(config.matcher_box, **options).eval()

    def __call__(self, predictions: Sequence[Prediction], targets: Targets) -> list[Match]:
        """Matches every layer on its own, with one transfer of all costs to the host.

        Args:
            predictions: the layers; each may have its own number of queries.
            targets: the batch's objects. Where an image has more objects than queries, the dearest stay
                unmatched.

        Returns:
            One match for each prediction.

        Raises:
            NonFiniteError: where a cost is NaN or Inf.
        """
        counts = [len(labels) for labels in targets.labels]
        costs = self.costs(predictions, targets).cpu().numpy()
        ends = np.cumsum([prediction.logits.shape[1] for prediction in predictions])
        host = np.split(costs, ends[:-1], axis=1)
        if not all(np.isfinite(part).all() for part in host):
            raise _explain(predictions, targets, host)
        return [_assign(part, counts) for part in host]

    @torch.no_grad()
    def costs(self, predictions: Sequence[Prediction], targets: Targets) -> Tensor:
        """Costs (N, S) of each object of the batch with each query of its own image.

        The S columns are the layers' queries, layer after layer. Pairs across images are never computed.
        """
        images = image_indices(targets).to(predictions[0].logits.device, non_blocking=True)
        labels, boxes = torch.cat(targets.labels), torch.cat(targets.boxes)
        logits = full_precision(torch.cat([p.logits[images, :, labels] for p in predictions], 1))
        predicted = full_precision(torch.cat([p.boxes for p in predictions], 1))[images]
        wanted = boxes[:, None].to(predicted.dtype)
        return (
            self.config.class_cost * focal_cost(logits)
            + self.config.l1_cost * (predicted - wanted).abs().sum(-1)
            + self.config.box_cost * (self._box_loss(predicted, wanted) - 1)
        )


def denoising_match(plan: DenoisingPlan, targets: Targets) -> Match:
    """The pairs that denoising queries were made from: positives of every group with their objects."""
    counts = np.array([len(labels) for labels in targets.labels], np.int64)
    first = np.cumsum(counts) - counts
    own = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
    images = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    groups = np.arange(plan.num_groups, dtype=np.int64)[:, None] * (2 * plan.max_objects)
    every = (plan.num_groups, len(own))
    return Match(
        np.broadcast_to(images, every).reshape(-1),
        (groups + own).reshape(-1),
        np.broadcast_to(first[images] + own, every).reshape(-1),
    )


def image_indices(targets: Targets) -> Tensor:
    """(N,) int64 on the host: the image of each object of the batch."""
    counts = torch.tensor([len(labels) for labels in targets.labels])
    return torch.arange(len(counts)).repeat_interleave(counts)


def full_precision(values: Tensor) -> Tensor:
    """bf16 and fp16 as float32; others as they are. Costs and losses are never computed in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def _assign(cost: NDArray[np.floating], counts: Sequence[int]) -> Match:
    """The assignment of each image, from the costs (N, Q) of one layer."""
    images, queries, objects = [], [], []
    first = 0
    for image, count in enumerate(counts):
        if count:
            chosen_objects, chosen_queries = linear_sum_assignment(cost[first : first + count])
            order = np.argsort(chosen_queries)
            images.append(np.full(len(order), image, np.int64))
            queries.append(chosen_queries[order].astype(np.int64))
            objects.append((first + chosen_objects[order]).astype(np.int64))
        first += count
    if not images:
        nothing = np.empty(0, np.int64)
        return Match(nothing, nothing, nothing)
    return Match(np.concatenate(images), np.concatenate(queries), np.concatenate(objects))


def _explain(
    predictions: Sequence[Prediction], targets: Targets, costs: Sequence[NDArray[np.floating]]
) -> NonFiniteError:
    """Finds out what was not finite; slow, and only run once."""
    owner = image_indices(targets).numpy()
    bad = sorted({int(image) for cost in costs for image in owner[~np.isfinite(cost).all(1)]})
    names = targets.image_ids or list(range(len(targets)))
    parts = []
    for image in bad:
        if not torch.isfinite(targets.boxes[image]).all():
            parts.append(f"target boxes of image {names[image]!r}")
    for layer, prediction in enumerate(predictions):
        for name, values in (("logits", prediction.logits), ("boxes", prediction.boxes)):
            wrong = [image for image in bad if not torch.isfinite(values[image]).all()]
            if wrong:
                parts.append(f"{name} of supervised layer {layer}")
    shown = ", ".join(repr(names[image]) for image in bad)
    return NonFiniteError(
        f"the matching costs of image(s) {shown} are not finite; NaN or Inf in: "
        f"{'; '.join(parts) or 'the cost itself (predictions too large for their precision)'}. "
        "Look at these images and boxes, lower the learning rate, or train with train.precision=fp32",
        [names[image] for image in bad],
    )
