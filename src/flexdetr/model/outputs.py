"""What goes into and comes out of a detector: predictions, targets, and the denoising plan that links them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """One supervised layer's answer for a batch.

    Attributes:
        logits: (B, Q, C) class logits, before the sigmoid.
        boxes: (B, Q, 4) cxcywh as fractions of the image, in [0, 1].
        corners: (B, Q, 4 * bins) logits of the distance of each edge from the reference's centre, the edges being
            left, top, right, bottom; None where boxes are not distributions.
        reference: (B, Q, 4) cxcywh, the boxes from which ``corners`` measure, without gradient.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor | None = None
    reference: Tensor | None = None

    def of(self, queries: slice) -> Prediction:
        """The answer of some of the queries."""
        return Prediction(
            self.logits[:, queries],
            self.boxes[:, queries],
            None if self.corners is None else self.corners[:, queries],
            None if self.reference is None else self.reference[:, queries],
        )


class DenoisingPlan(NamedTuple):
    """How denoising queries are laid out, so that the loss can pair each with its object.

    Each group holds ``max_objects`` positive queries, then as many negative ones; query ``j`` of the positive half
    of every group belongs to object ``j`` of its image.

    Attributes:
        num_groups: groups of denoising queries in the batch.
        max_objects: objects of the fullest image of the batch.
        num_queries: ``2 * max_objects * num_groups``, which precede the matching queries.
    """

    num_groups: int
    max_objects: int
    num_queries: int


class Output(NamedTuple):
    """Everything that a detector returns; in evaluation mode only ``final`` is filled.

    Attributes:
        final: the last decoder layer that ran.
        aux: earlier decoder layers, first to last.
        encoder: the selected encoder tokens' own prediction.
        denoising: denoising queries' predictions, one a decoder layer, first to last.
        plan: layout of the denoising queries; None when there are none.
        pre: the first layer's plain boxes, from which a head of distributions measures; None in other heads.
        pre_denoising: the same of the denoising queries.
    """

    final: Prediction
    aux: tuple[Prediction, ...] = ()
    encoder: Prediction | None = None
    denoising: tuple[Prediction, ...] = ()
    plan: DenoisingPlan | None = None
    pre: Prediction | None = None
    pre_denoising: Prediction | None = None


class Observed(NamedTuple):
    """A forward pass in training, with what lies between its parts; see ``DetectionModel.observed``.

    Attributes:
        output: of the head.
        levels: the encoder's, (B, D_l, h_l, w_l), finest first.
        deep: (B, D, h, w) the coarsest level behind the block within it, before levels are fused.
    """

    output: Output
    levels: list[Tensor]
    deep: Tensor


class Noise(NamedTuple):
    """What makes denoising queries the same however a step is divided over processes and micro-batches.

    Attributes:
        max_objects: objects of the fullest image of the whole step.
        seeds: B of them; an image's noise depends on its seed alone.
    """

    max_objects: int
    seeds: list[int]


@dataclass(frozen=True)
class Targets:
    """The objects of a batch.

    Attributes:
        labels: B tensors (N_i,) int64, indices of the head's classes (not data-set ids).
        boxes: B tensors (N_i, 4) float32, cxcywh as fractions of the image.
        image_ids: B identifiers, named in error messages.
        noise: where this is a part of a larger step; None draws denoising queries for the batch as it is.
        shares: B tensors (N_i,) float32, how much of a blended picture each label is; None where each is all of it.
    """

    labels: list[Tensor]
    boxes: list[Tensor]
    image_ids: list[int | str] = field(default_factory=list)
    noise: Noise | None = None
    shares: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_objects(self) -> int:
        """Objects in the whole batch."""
        return sum(len(labels) for labels in self.labels)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device: one copy of each part, however many images there are.

        On their way to a GPU they go through pinned memory, so that nothing waits.
        """
        place = torch.device(device)
        shares = None if self.shares is None else _moved(self.shares, place)
        return Targets(
            _moved(self.labels, place), _moved(self.boxes, place), self.image_ids, self.noise, shares
        )


def _moved(rows: list[Tensor], device: torch.device) -> list[Tensor]:
    if all(row.device.type == device.type for row in rows):
        return [row.to(device, non_blocking=True) for row in rows]
    together = torch.cat(rows)
    if device.type == "cuda":
        together = together.pin_memory()
    return list(torch.split(together.to(device, non_blocking=True), [len(row) for row in rows]))
