"""Boxes as tensors: conversions between formats, and how two boxes overlap.

The format inside the network is cxcywh as fractions of the image; other formats are named in the variable
(``boxes_xyxy``). All functions take leading dimensions of any number, broadcast, and are differentiable. The
IoU family of losses is built on :func:`compare` and lives in ``loss/box_family.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width, height -> (..., 4) left, top, right, bottom, in the same unit."""
    cx, cy, width, height = boxes.unbind(-1)
    return torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], -1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom -> (..., 4) centre, width, height, in the same unit."""
    left, top, right, bottom = boxes_xyxy.unbind(-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], -1)


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """(..., 4) left, top, width, height (COCO's format) -> (..., 4) left, top, right, bottom."""
    left, top, width, height = boxes_xywh.unbind(-1)
    return torch.stack([left, top, left + width, top + height], -1)


def xyxy_to_xywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom -> (..., 4) left, top, width, height (COCO's format)."""
    left, top, right, bottom = boxes_xyxy.unbind(-1)
    return torch.stack([left, top, right - left, bottom - top], -1)


def xywh_to_cxcywh(boxes_xywh: Tensor) -> Tensor:
    """(..., 4) left, top, width, height (COCO's format) -> (..., 4) centre, width, height."""
    left, top, width, height = boxes_xywh.unbind(-1)
    return torch.stack([left + width / 2, top + height / 2, width, height], -1)


def cxcywh_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) centre, width, height -> (..., 4) left, top, width, height (COCO's format)."""
    cx, cy, width, height = boxes.unbind(-1)
    return torch.stack([cx - width / 2, cy - height / 2, width, height], -1)


def clip_xyxy(boxes_xyxy: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Boxes cut off at the image's border.

    Args:
        boxes_xyxy: (..., 4) left, top, right, bottom in pixels.
        size: (height, width) of the image in pixels, or (..., 2) of them for the boxes of several images.

    Returns:
        (..., 4) of the same format; a box outside of the image gets zero width or height.
    """
    edge = (size if isinstance(size, Tensor) else torch.tensor(size)).flip(-1).to(boxes_xyxy)
    return torch.minimum(boxes_xyxy.clamp(min=0), torch.cat([edge, edge], -1))


class Pair(NamedTuple):
    """Two aligned sets of boxes, measured against each other; every field has the broadcast shape (...).

    Attributes:
        width: of the first (predicted) boxes.
        height: of the first boxes.
        target_width: of the second (target) boxes.
        target_height: of the second boxes.
        dx: first centre minus second centre, horizontally.
        dy: the same vertically.
        union: area of the union.
        iou: intersection over union; 0 where both boxes have no area.
        enclosing_width: of the smallest box around both.
        enclosing_height: of the smallest box around both.
    """

    width: Tensor
    height: Tensor
    target_width: Tensor
    target_height: Tensor
    dx: Tensor
    dy: Tensor
    union: Tensor
    iou: Tensor
    enclosing_width: Tensor
    enclosing_height: Tensor


def compare(predicted: Tensor, target: Tensor) -> Pair:
    """Measures two sets of boxes against each other, element by element.

    Sides are never taken as differences of corners: two boxes 1e-9 wide around 0.5 have the same float32
    corners left and right, yet their IoU comes out right, as do its gradients.

    Args:
        predicted: (..., 4) cxcywh.
        target: (..., 4) cxcywh, of a shape that broadcasts with ``predicted``.

    Returns:
        What the IoU family needs, in the boxes' own unit.
    """
    cx, cy, width, height = predicted.unbind(-1)
    target_cx, target_cy, target_width, target_height = target.unbind(-1)
    dx, dy = cx - target_cx, cy - target_cy
    intersection, union = _overlap(width, height, target_width, target_height, dx, dy)
    return Pair(
        width,
        height,
        target_width,
        target_height,
        dx,
        dy,
        union,
        ratio(intersection, union),
        torch.maximum(torch.maximum(width, target_width), (width + target_width) / 2 + dx.abs()),
        torch.maximum(torch.maximum(height, target_height), (height + target_height) / 2 + dy.abs()),
    )


def scaled_iou(pair: Pair, scale: float) -> Tensor:
    """IoU (...) of both boxes after each was scaled about its centre (Inner-IoU, arXiv 2311.02877)."""
    width, height = pair.width * scale, pair.height * scale
    target_width, target_height = pair.target_width * scale, pair.target_height * scale
    return ratio(*_overlap(width, height, target_width, target_height, pair.dx, pair.dy))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``; 0 with zero gradient where the denominator is nothing.

    Nothing means below the square root of the smallest normal number (1e-19 in float32): above it a quotient
    and its gradient stay finite, below it an area or a squared distance is rounding. No epsilon is added
    anywhere, so that values are exact.
    """
    nothing = denominator <= torch.finfo(denominator.dtype).tiny ** 0.5
    return numerator / denominator.masked_fill(nothing, torch.inf)


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """IoU (...) in [0, 1] of boxes (..., 4) cxcywh, element by element."""
    return compare(predicted, target).iou


def giou(predicted: Tensor, target: Tensor) -> Tensor:
    """Generalised IoU (...) in [-1, 1] of boxes (..., 4) cxcywh, element by element (arXiv 1902.09630)."""
    pair = compare(predicted, target)
    enclosing = pair.enclosing_width * pair.enclosing_height
    return pair.iou - ratio(enclosing - pair.union, enclosing)


def iou_matrix(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (N, M) of each of ``boxes`` (N, 4) cxcywh with each of ``others`` (M, 4) cxcywh."""
    return iou(boxes[:, None], others[None])


def giou_matrix(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU (N, M) of each of ``boxes`` (N, 4) cxcywh with each of ``others`` (M, 4) cxcywh."""
    return giou(boxes[:, None], others[None])


def _overlap(
    width: Tensor, height: Tensor, target_width: Tensor, target_height: Tensor, dx: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    shared_width = torch.minimum(torch.minimum(width, target_width), (width + target_width) / 2 - dx.abs())
    shared_height = torch.minimum(
        torch.minimum(height, target_height), (height + target_height) / 2 - dy.abs()
    )
    intersection = shared_width.clamp(min=0) * shared_height.clamp(min=0)
    return intersection, width * height + target_width * target_height - intersection
