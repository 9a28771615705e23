"""What D-FINE's loss adds: fine-grained localization and the layers' self-distillation (arXiv 2410.13842).

Both act on the distributions of a box's edges, ``Prediction.corners``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flexdetr.boxes import iou
from flexdetr.config import LossConfig
from flexdetr.loss.criterion import Criterion
from flexdetr.loss.distribution_focal import two_bins_loss
from flexdetr.loss.matcher import Match, full_precision, to_device
from flexdetr.loss.supervision import Part, Supervised, on_device, segment_sums
from flexdetr.model.distances import bin_distances
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.outputs import Prediction, Targets

# Both softmaxes of the distillation are taken of logits divided by it; the loss is multiplied by its square.
TEMPERATURE = 5.0


def distances_to(reference: Tensor, boxes: Tensor, reg_scale: float) -> Tensor:
    """How far a box's edges are from those of a reference box, outwards.

    Args:
        reference: (..., 4) cxcywh.
        boxes: (..., 4) cxcywh in the same unit.
        reg_scale: size of the reference box in the unit of the distances.

    Returns:
        (..., 4) left, top, right, bottom; 0 everywhere for equal boxes.
    """
    size = reference[..., 2:]
    # The published code adds 1e-16 to a size; boxes here are never that small, and a clamp keeps zero sizes finite.
    unit = size.clamp(min=torch.finfo(size.dtype).tiny ** 0.5) / reg_scale
    offset, growth = boxes[..., :2] - reference[..., :2], (boxes[..., 2:] - size) / 2
    return torch.cat([(growth - offset) / unit, (growth + offset) / unit], -1)


def between_bins(distances: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Between which two bins a distance lies, and how near it is to the upper one.

    ``bins`` are (reg_max + 1,) ascending distances.

    Returns:
        Index (...) int64 of the lower bin, at most reg_max - 1, and the share (...) in [0, 1] of the upper one;
        distances beyond the bins belong wholly to the outermost.
    """
    lower = (torch.bucketize(distances.contiguous(), bins, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[lower], bins[lower + 1]
    return lower, ((distances - low) / (high - low)).clamp(0, 1)


class FineGrainedLocalization:
    """Cross-entropy of each edge's distribution with the two bins around its right distance (eq. 5).

    A pair counts as much as its box overlaps the object, without gradient.

    Args:
        weight: of the term.
        bins: (reg_max + 1,) distances of the bins.
        reg_scale: size of the reference box in the unit of the distances.
    """

    def __init__(self, weight: float, bins: Tensor, reg_scale: float) -> None:
        self.weight = weight
        self.bins = bins
        self.reg_scale = reg_scale

    def __call__(self, layers: Sequence[Supervised], targets: Targets) -> Iterator[Part]:
        """Sums over each layer's pairs and their four edges."""
        chosen = _with_distributions(layers)
        pairs = on_device(
            [layer.match for layer in chosen], [0] * len(chosen), chosen[0].prediction.boxes.device
        )
        where = list(
            zip(*(torch.split(part, list(pairs.sizes)) for part in (pairs.images, pairs.rows)), strict=True)
        )
        corners, boxes, reference = (
            torch.cat([full_precision(part[rows]) for part, rows in zip(parts, where, strict=True)])
            for parts in (
                [layer.corners for layer in chosen],
                [layer.prediction.boxes for layer in chosen],
                [layer.reference for layer in chosen],
            )
        )
        wanted = torch.cat(targets.boxes)[pairs.objects].to(boxes.dtype)
        bins = to_device(self.bins.to(boxes.dtype), boxes.device)
        lower, share = between_bins(distances_to(reference, wanted, self.reg_scale), bins)
        losses = two_bins_loss(torch.unflatten(corners, -1, (4, -1)), lower, share)
        loss = losses.sum(-1) * iou(boxes, wanted).detach()
        factors = [self.weight * layer.share for layer in chosen]
        yield Part("fgl", [layer.name for layer in chosen], segment_sums(loss, pairs.sizes), factors)


class LocalizationDistillation:
    """Earlier layers learn the last layer's distributions (decoupled distillation focal loss, eq. 7 and 8).

    Of every query and edge the divergence of the student from the teacher, both at ``TEMPERATURE``; matched queries
    count as much as the student's box overlaps the object, others as much as the teacher believes in any class. The
    means over both kinds are weighted with the square roots of their numbers, which are always those of the matching
    queries, also in denoising layers, as in the published code. A mean has no number of objects to be divided by: it
    counts with the objects of its batch, so that micro-batches share it out like the other terms.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, layers: Sequence[Supervised], targets: Targets) -> Iterator[Part]:
        """One value for each student."""
        chosen = _with_distributions(layers)
        noisy = [layer for layer in chosen if layer.name.startswith("denoising")]
        free = [layer for layer in chosen if not layer.name.startswith("denoising")]
        final = free[0]
        matched = len(final.match.objects)
        others = math.prod(final.prediction.logits.shape[:2]) - matched
        roots = math.sqrt(matched), math.sqrt(others)
        groups = [(final, free[1:])]
        if noisy:
            groups.append((noisy[-1], noisy[:-1]))
        students = [student for _, own in groups for student in own]
        if not students:
            return
        pairs = on_device([one.match for one in students], [0] * len(students), final.corners.device)
        parts = (torch.split(part, list(pairs.sizes)) for part in (pairs.images, pairs.rows, pairs.objects))
        places = zip(*parts, strict=True)
        boxes = torch.cat(targets.boxes)
        values = []
        for teacher, own in groups:
            lesson = _teacher_targets(teacher)
            for student in own:
                images, rows, objects = next(places)
                values.append(_divergence(student, lesson, (images, rows), boxes[objects], roots))
        names = [student.name for student in students]
        yield Part(
            "ddf", names, torch.stack(values), [self.weight * max(targets.num_objects, 1)] * len(names)
        )


def objective(config: LossConfig, options: DFINEOptions, num_classes: int) -> Criterion:
    """D-FINE's loss: class, L1 and box terms over the union of matches, and both terms on distributions.

    A term of weight 0 is left out.
    """
    bins = bin_distances(options.reg_max, options.up, options.reg_scale)
    terms: list[FineGrainedLocalization | LocalizationDistillation] = []
    if options.fgl_weight:
        terms.append(FineGrainedLocalization(options.fgl_weight, bins, options.reg_scale))
    if options.ddf_weight:
        terms.append(LocalizationDistillation(options.ddf_weight))
    return Criterion(config, num_classes, terms=terms, unite=options.unite)


class _Distributed(NamedTuple):
    """A supervised layer whose boxes are distributions, with the pairs of its box terms."""

    name: str
    prediction: Prediction
    corners: Tensor
    reference: Tensor
    match: Match
    share: float


def _with_distributions(layers: Sequence[Supervised]) -> list[_Distributed]:
    return [
        _Distributed(layer.name, layer.prediction, corners, reference, layer.box_match, layer.box_share)
        for layer in layers
        if (corners := layer.prediction.corners) is not None
        and (reference := layer.prediction.reference) is not None
    ]


class _TeacherTargets(NamedTuple):
    """What all students of a teacher learn from, without gradient.

    Attributes:
        corners: (B, Q, 4, bins) logarithms of its softened probabilities.
        belief: (B, Q) its largest class probability.
    """

    corners: Tensor
    belief: Tensor


def _teacher_targets(teacher: _Distributed) -> _TeacherTargets:
    logits = full_precision(teacher.prediction.logits.detach())
    return _TeacherTargets(_tempered(teacher.corners.detach()), logits.sigmoid().amax(-1))


def _divergence(
    student: _Distributed,
    lesson: _TeacherTargets,
    matched_queries: tuple[Tensor, Tensor],
    objects: Tensor,
    roots: tuple[float, float],
) -> Tensor:
    """The distillation of one layer; ``roots`` weigh the means over matched and over other queries."""
    likely = _tempered(student.corners)
    divergence = F.kl_div(likely, lesson.corners, reduction="none", log_target=True).sum((-1, -2))  # (B, Q)
    boxes = full_precision(student.prediction.boxes.detach())[matched_queries]
    weights = lesson.belief.to(divergence.dtype, copy=True)
    weights[matched_queries] = iou(boxes, objects.to(boxes.dtype)).to(divergence.dtype)
    values = divergence * weights * (TEMPERATURE**2 / 4)  # a mean over edges, of which a query has four
    matched = values[matched_queries].sum()
    count = len(student.match.objects)
    inside = matched / max(count, 1)
    outside = (values.sum() - matched) / max(values.numel() - count, 1)
    return (inside * roots[0] + outside * roots[1]) / sum(roots)


def _tempered(corners: Tensor) -> Tensor:
    """(B, Q, 4 * bins) logits as (B, Q, 4, bins) logarithms of the softened probabilities."""
    return torch.unflatten(full_precision(corners), -1, (4, -1)).div(TEMPERATURE).log_softmax(-1)
