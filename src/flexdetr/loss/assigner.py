"""Which cells of a dense head answer for which object: task-aligned assignment, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flexdetr.boxes import cxcywh_to_xyxy
from flexdetr.loss.box_family import BoxLoss

_SMALLEST = 1e-9  # added to an object's best alignment, as published, before cells are compared with it


class Assignment(NamedTuple):
    """Cells that answer for an object, image by image, cells ascending.

    Attributes:
        images: (P,) index of the image in the batch.
        cells: (P,) index of the cell in its image.
        objects: (P,) index of the object in the batch's objects, all images' one after the other.
        scores: (P,) what the cell's score for the object's class should be, in [0, 1]; 0 for all other classes.
    """

    images: Tensor
    cells: Tensor
    objects: Tensor
    scores: Tensor


def assign(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    labels: Tensor,
    objects: Tensor,
    counts: Sequence[int],
    *,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (TOOD, arXiv 2108.07755, section 3.3) as YOLOv8 has it.

    An object may be answered by cells whose centre lies in its box or on its edge. Of these it claims the ``top_k``
    with the best alignment score^alpha * CIoU^beta, the CIoU clamped to [0, 1], where that is above 0. A cell that
    several objects claim goes to the one with the highest CIoU, and of equal ones to the first. The target score of a
    cell is its alignment relative to the best that the object keeps, times the best CIoU that the object keeps.

    Args:
        logits: (B, N, C) of all cells.
        boxes: (B, N, 4) cxcywh that they predict, in any unit that is the same horizontally and vertically.
        centres: (N, 2) of the cells, in this unit.
        labels: (O,) classes of the batch's objects, all images' one after the other.
        objects: (O, 4) cxcywh, in this unit.
        counts: objects of each image; images without any are fine.
        top_k: cells that an object claims at most.
        alpha: exponent of the score.
        beta: exponent of the CIoU.
    """
    with torch.no_grad():
        claims = _claims(logits, boxes, centres, labels, objects, counts, top_k, alpha, beta)
        return _settled(claims, len(labels), len(counts), len(centres))


class _Claims(NamedTuple):
    """Pairs (K,) of an object and a cell that it asks for; ``cell`` counts over all images."""

    number: Tensor
    cell: Tensor
    metric: Tensor
    ciou: Tensor


def _claims(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    labels: Tensor,
    objects: Tensor,
    counts: Sequence[int],
    top_k: int,
    alpha: float,
    beta: float,
) -> _Claims:
    count, cells = len(labels), len(centres)
    objects = objects.to(boxes.dtype)
    image = torch.repeat_interleave(
        torch.arange(len(counts), device=boxes.device), torch.tensor(counts, device=boxes.device)
    )
    left, top, right, bottom = cxcywh_to_xyxy(objects)[..., None].unbind(1)
    x, y = centres.unbind(-1)
    number, cell = ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).nonzero(as_tuple=True)
    ciou = (1 - BoxLoss("ciou")(boxes[image[number], cell], objects[number])).clamp(0, 1)
    score = logits[image[number], cell, labels[number]].to(ciou.dtype).sigmoid()
    metric = score**alpha * ciou**beta
    aligned, overlap = metric.new_zeros(2, count, cells)
    aligned[number, cell], overlap[number, cell] = metric, ciou
    best, chosen = aligned.topk(min(top_k, cells), dim=1)
    number, place = (best > 0).nonzero(as_tuple=True)
    metric, cell = best[number, place], chosen[number, place]
    return _Claims(number, image[number] * cells + cell, metric, overlap[number, cell])


def _settled(claims: _Claims, count: int, images: int, cells: int) -> Assignment:
    """One object a cell, and the cells' target scores."""
    number, cell, metric, ciou = claims
    highest = ciou.new_zeros(images * cells).scatter_reduce(0, cell, ciou, "amax")
    wins = ciou == highest[cell]
    first = number.new_full((images * cells,), count).scatter_reduce(0, cell[wins], number[wins], "amin")
    kept = wins & (first[cell] == number)
    number, cell, metric, ciou = (part[kept] for part in claims)
    best_metric = metric.new_zeros(count).scatter_reduce(0, number, metric, "amax")
    best_ciou = ciou.new_zeros(count).scatter_reduce(0, number, ciou, "amax")
    scores = metric / (best_metric + _SMALLEST)[number] * best_ciou[number]
    order = cell.argsort()
    cell = cell[order]
    return Assignment(cell // cells, cell % cells, number[order], scores[order])
