"""Which query answers for which object: one minimal-cost assignment for each supervised layer and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.boxes import iou
from flexdetr.config import LossConfig
from flexdetr.loss.box_family import BoxLoss, known_options
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


def refuse_non_finite(finite: Tensor, targets: Targets, what: str) -> None:
    """Stop where a loss without matching costs would hide or spread NaN.

    ``finite`` (B,) says whether all of an image's answers are finite, ``what`` what is wrong, with ``{}`` for
    the number of images, like "the logits of {} pictures".

    Raises:
        NonFiniteError: naming the first images.
    """
    if bool(finite.all()):
        return
    wrong = [place for place, fine in enumerate(finite.tolist()) if not fine]
    ids = [targets.image_ids[place] for place in wrong] if targets.image_ids else wrong
    shown = ", ".join(map(str, ids[:5]))
    raise NonFiniteError(f"{what.format(len(ids))} are NaN or infinite: {shown}", ids)


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

    Of ``box_options`` it takes those that fit ``matcher_box``.

    Attributes:
        late: take the costs of the end of training instead (DEIMv2, arXiv 2509.20787): minus the score of the
            object's class times the fourth power of the IoU. Where a query overlaps no object, all costs are 0.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.late = False
        options = known_options(config.matcher_box, config.box_options)
        self._box_loss = BoxLoss(config.matcher_box, **options).eval()

    def __call__(
        self,
        predictions: Mapping[str, Prediction],
        targets: Targets,
        *,
        copies: Mapping[str, int] | None = None,
    ) -> dict[str, Match]:
        """Matches every layer on its own, with one transfer of all costs to the host.

        Args:
            predictions: the layers by name; each may have its own number of queries.
            targets: the batch's objects. Where an image has more objects than queries, those with the highest cost stay
                unmatched.
            copies: how many queries each object gets, by layer; 1 if a layer is not named.

        Returns:
            The match of each layer.

        Raises:
            NonFiniteError: if a cost is NaN or Inf.
        """
        counts = [len(labels) for labels in targets.labels]
        costs = self.costs(list(predictions.values()), targets).cpu().numpy()
        if not np.isfinite(costs).all():
            raise _explain(predictions, targets, costs)
        ends = np.cumsum([prediction.logits.shape[1] for prediction in predictions.values()])
        parts = np.split(costs, ends[:-1], axis=1)
        copies = copies or {}
        return {
            name: _assign(part, counts, copies.get(name, 1))
            for name, part in zip(predictions, parts, strict=True)
        }

    @torch.no_grad()
    def costs(self, predictions: Sequence[Prediction], targets: Targets) -> Tensor:
        """Costs (N, S) of each object of the batch with each query of its own image.

        The S columns are the layers' queries, layer after layer. Pairs across images are never computed.
        """
        images = to_device(image_indices(targets), predictions[0].logits.device)
        labels, boxes = torch.cat(targets.labels), torch.cat(targets.boxes)
        logits = full_precision(torch.cat([p.logits[images, :, labels] for p in predictions], 1))
        predicted = full_precision(torch.cat([p.boxes for p in predictions], 1))[images]
        wanted = boxes[:, None].to(predicted.dtype)
        if self.late:
            return -logits.sigmoid() * iou(predicted, wanted) ** 4
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


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without waiting for what the device is doing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _assign(cost: NDArray[np.floating], counts: Sequence[int], copies: int) -> Match:
    """The assignment of each image, from the costs (N, Q) of one layer; each object counts ``copies`` times."""
    from scipy.optimize import linear_sum_assignment  # a second, which inference does without

    images, queries, objects = [], [], []
    first = 0
    for image, count in enumerate(counts):
        if count:
            own = cost[first : first + count]
            chosen_objects, chosen_queries = linear_sum_assignment(
                np.tile(own, (copies, 1)) if copies > 1 else own
            )
            chosen_objects = chosen_objects % count
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
    predictions: Mapping[str, Prediction], targets: Targets, costs: NDArray[np.floating]
) -> NonFiniteError:
    """Finds out what was not finite; slow, and only run once."""
    owner = image_indices(targets).numpy()
    bad = np.unique(owner[~np.isfinite(costs).all(1)]).tolist()
    ids = [targets.image_ids[image] if targets.image_ids else image for image in bad]
    wrong = ["target boxes"] if not all(torch.isfinite(targets.boxes[image]).all() for image in bad) else []
    for layer, prediction in predictions.items():
        for part, values in (("logits", prediction.logits), ("boxes", prediction.boxes)):
            if not torch.isfinite(values[bad]).all():
                wrong.append(f"{part} of layer {layer!r}")
    return NonFiniteError(
        f"matching costs of image(s) {', '.join(repr(image_id) for image_id in ids)} are not finite; NaN or "
        f"Inf in: {', '.join(wrong) or 'the costs alone (overflow)'}. Check these images and their boxes, "
        "lower the learning rate (train.lr), or train with train.precision=fp32",
        ids,
    )
