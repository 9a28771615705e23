"""From a prediction to detections: the one place that makes boxes, scores and labels of a head's answer in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.boxes import clip_xyxy
from flexdetr.classes import Classes
from flexdetr.model.heads.base import Head
from flexdetr.model.outputs import Prediction
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.process import MAX_DETECTIONS, AnswerError, Selection, label


def most(head: Head) -> int:
    """How many detections of a picture a head answers at most: what a dense head was told to keep, else 300."""
    return MAX_DETECTIONS if head.limits is None else head.limits.max_detections


def best_pairs(
    prediction: Prediction, sizes: Tensor, top: int = MAX_DETECTIONS
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (query, class) pairs of each image, without non-maximum suppression (RT-DETR, arXiv 2304.08069).

    The numpy form of the runtimes is ``flexdetr.runtime.host.finish``; a test compares both.

    Args:
        prediction: logits (B, Q, C) and cxcywh fraction boxes (B, Q, 4).
        sizes: (B, 2) height and width of the original images.
        top: how many pairs to keep at most; a query may appear with several classes.

    Returns:
        boxes (B, K, 4) xyxy pixels of the original images, clipped to them; scores (B, K); labels (B, K) int64 head
        indices; best first.
    """
    scores = prediction.logits.float().sigmoid()
    classes = scores.shape[-1]
    scores, index = scores.flatten(1).topk(min(top, scores[0].numel()), dim=-1)
    labels, query = index % classes, index // classes
    boxes = prediction.boxes.float().gather(1, query[..., None].expand(-1, -1, 4))
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    scale = sizes.flip(-1)[:, None].to(boxes)
    low, high = (centre - half) * scale, (centre + half) * scale
    return clip_xyxy(torch.cat([low, high], -1), sizes[:, None]), scores, labels


def detections(
    head: Head,
    prediction: Prediction,
    size: tuple[int, int],
    classes: Classes,
    threshold: float | Sequence[float] | NDArray[np.floating] = 0.0,
    top: int | None = None,
) -> Detections:
    """What a head answers for one image.

    Args:
        head: whose prediction it is.
        prediction: for a batch of one image.
        size: (height, width) of the original image in pixels.
        classes: of the head.
        threshold: lowest score to keep, or one for each class.
        top: detections to keep at most, before the threshold; None keeps what the head answers, see ``most``.

    Raises:
        AnswerError: if there is a NaN among the logits or boxes.
    """
    if bool(prediction.logits.isnan().any()) or bool(prediction.boxes.isnan().any()):
        raise AnswerError("the model answered NaN: its weights, its export or its precision are at fault")
    sizes = torch.tensor([size], device=prediction.boxes.device)
    boxes, scores, labels = (
        part[0].cpu().numpy() for part in head.answer(prediction, sizes, top or most(head))
    )
    return label(Selection(boxes, scores, labels), size, classes, threshold)
