"""Non-maximum suppression of a dense head's boxes, class by class, as one operation that graphs can hold.

The numpy form of the runtimes is ``flexdetr.runtime.process.finish_dense``; a test compares both.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from flexdetr.boxes import clip_xyxy, cxcywh_to_xyxy
from flexdetr.model.outputs import Prediction
from flexdetr.runtime.nms import CANDIDATES, Limits, log_dropped, log_unseen

_LOG = logging.getLogger(__name__)


@torch.library.custom_op("flexdetr::multiclass_nms", mutates_args=())
def multiclass_nms(boxes_xyxy: Tensor, scores: Tensor, top: int, iou: float, score: float) -> Tensor:
    """ONNX's NonMaxSuppression: what every class of every image keeps.

    Every (box, class) pair with a score above ``score`` is a candidate, at most ``CANDIDATES`` of an image, the best;
    the log says how many more there were. A candidate goes if its IoU with a better one of its class that stays is
    above ``iou``. An image answers ``top`` pairs at most, and the log says how many more suppression left.

    ``boxes_xyxy`` (B, N, 4) have ``scores`` (B, C, N); a class keeps at most ``top`` pairs, and then an image.

    Returns:
        (M, 3) int64 index of image, class and box; best first.
    """
    from torchvision.ops import batched_nms

    image, label, box = (scores > score).nonzero(as_tuple=True)
    value = scores[image, label, box]
    order = torch.argsort(value, descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]
    image, label, box, value = image[order], label[order], box[order], value[order]
    counts = torch.bincount(image, minlength=len(scores))
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    if bool((counts > CANDIDATES).any()):
        kept = place < CANDIDATES
        log_unseen(int((~kept).sum()), len(kept), score)
        image, label, box, value = image[kept], label[kept], box[kept], value[kept]
    # In float64 shifting classes apart, as torchvision does, moves no border between boxes.
    group = image * scores.shape[1] + label
    stays = batched_nms(boxes_xyxy[image, box].double(), value.double(), group, iou)
    if _LOG.isEnabledFor(logging.INFO):
        _tell_dropped(image[stays], value[stays], top)
    group = group[stays]
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[group[order]]
    return torch.stack([image, label, box], 1)[stays[place < top]]


def _tell_dropped(image: Tensor, value: Tensor, top: int) -> None:
    """Say how many boxes that suppression left are more than their image answers; best first."""
    for one, count in enumerate(torch.bincount(image).tolist()):
        if count > top:
            log_dropped(count - top, value[image == one][top].item(), top)


@multiclass_nms.register_fake
def _shape(boxes_xyxy: Tensor, scores: Tensor, top: int, iou: float, score: float) -> Tensor:  # noqa: ARG001
    count = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty((count, 3), dtype=torch.int64)


def after_suppression(
    prediction: Prediction, sizes: Tensor, limits: Limits, top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (box, class) pairs of each image that suppression leaves.

    ``sizes`` (B, 2) are height and width of the original images; at most ``top`` pairs are kept. The prediction
    has logits (B, N, C) and cxcywh fraction boxes (B, N, 4) of every cell.

    Returns:
        boxes (B, K, 4) xyxy pixels of the original images, clipped to them; scores (B, K); labels (B, K) int64 head
        indices; best first. Where an image has fewer than K, the rest have the score 0.
    """
    top = min(top, limits.max_detections)
    boxes_xyxy = cxcywh_to_xyxy(prediction.boxes.float())
    scores = prediction.logits.float().sigmoid().transpose(1, 2)
    found = multiclass_nms(boxes_xyxy, scores, top, limits.iou, limits.score)
    # Rows of nothing behind them, so that there are ``top`` in any case.
    image, label, box = torch.cat([found, found.new_zeros(top, 3)]).unbind(1)
    real = torch.cat([torch.ones_like(found[:, 0]), found.new_zeros(top)])
    own = (image == torch.arange(scores.shape[0], device=image.device)[:, None]) & (real > 0)
    best, place = torch.where(own, scores[image, label, box], 0.0).topk(top, dim=1)
    chosen = boxes_xyxy[image, box][place]
    scale = sizes.flip(-1)[:, None].to(chosen)
    pixels = clip_xyxy(chosen * torch.cat([scale, scale], -1), sizes[:, None])
    return pixels, best, label[place]
