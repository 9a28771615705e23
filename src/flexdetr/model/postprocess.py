"""From a prediction to detections, without non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from flexdetr.model.outputs import Prediction


def postprocess(prediction: Prediction, sizes: Tensor, top: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """The best (query, class) pairs of each image, as RT-DETR's published post-processing takes them.

    Args:
        prediction: logits (B, Q, C) and cxcywh fraction boxes (B, Q, 4).
        sizes: (B, 2) height and width of the original images.
        top: how many pairs to keep at most; a query may appear with several classes.

    Returns:
        labels (B, K) int64 head indices, boxes (B, K, 4) xyxy pixels of the original images, scores (B, K).
    """
    scores = prediction.logits.float().sigmoid()
    classes = scores.shape[-1]
    scores, index = scores.flatten(1).topk(min(top, scores[0].numel()), dim=-1)
    labels, query = index % classes, index // classes
    boxes = prediction.boxes.float().gather(1, query[..., None].expand(-1, -1, 4))
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    scale = sizes.flip(-1)[:, None].to(boxes)
    low, high = (centre - half) * scale, (centre + half) * scale
    return labels, torch.cat([low, high], -1), scores
