"""Query selection, as RT-DETR's family of heads shares it: the tokens with the highest class score become queries.

RT-DETR, arXiv 2304.08069, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexdetr.model.outputs import Prediction
from flexdetr.model.precision import precisely

# Stands for an infinite logit: its sigmoid is 1 in every floating type, and it survives export and half precision.
_FAR = 1e4
# The bias that every class's score starts with: a score of 0.01.
RARE = -math.log(99)


class Selection(NamedTuple):
    """Tokens that became queries.

    Attributes:
        content: (B, Q, D), without gradient.
        box_logits: (B, Q, 4) cxcywh before the sigmoid, without gradient.
        prediction: the tokens' own, with gradient.
    """

    content: Tensor
    box_logits: Tensor
    prediction: Prediction


def flatten(levels: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Levels (B, D, h, w) -> tokens (B, S, D), levels one after the other, and each level's (height, width)."""
    shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1), shapes


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(height, width, 2) centres (x, y) of a level's cells as shares of the image.

    ``like`` gives the device, and the type where that is wider than float32.
    """
    options: dict[str, Any] = {
        "device": like.device,
        "dtype": torch.promote_types(like.dtype, torch.float32),
    }
    rows = (torch.arange(height, **options) + 0.5) / height
    columns = (torch.arange(width, **options) + 0.5) / width
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)


def anchors(shapes: Sequence[tuple[int, int]], sides: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """One square box a token, around its cell's centre.

    ``shapes`` are (height, width) of each level, ``sides`` those of its boxes as shares of the image; ``like``
    gives the device, and the type where that is wider than float32.

    Returns:
        box logits (1, S, 4) and validity (1, S, 1): cells too near the border to start a box are not valid.
    """
    boxes = []
    for (height, width), side in zip(shapes, sides, strict=True):
        centre = cell_centres(height, width, like)
        boxes.append(torch.cat([centre, torch.full_like(centre, side)], -1).flatten(0, 1))
    box = torch.cat(boxes)[None]
    valid = ((box > 0.01) & (box < 0.99)).all(-1, keepdim=True)
    return torch.where(valid, (box / (1 - box)).log(), _FAR), valid


def select(
    tokens: Tensor, scores: Tensor, anchors: Tensor, box_head: Callable[[Tensor], Tensor], queries: int
) -> Selection:
    """The tokens with the highest class score.

    The box head runs on the selected tokens only: the others' boxes would be thrown away.

    Args:
        tokens: (B, S, D).
        scores: (B, S, C) logits, float32 or wider.
        anchors: (1, S, 4) box logits, as ``anchors`` gives them.
        box_head: (B, Q, D) -> steps from the anchors (B, Q, 4).
        queries: Q; all tokens where there are fewer.
    """
    chosen = scores.max(-1).values.topk(min(queries, scores.shape[1]), dim=1).indices[..., None]
    content = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[-1]))
    logits = scores.gather(1, chosen.expand(-1, -1, scores.shape[-1]))
    anchors = anchors.expand(tokens.shape[0], -1, -1).gather(1, chosen.expand(-1, -1, 4))
    box_logits = precisely(box_head, content) + anchors
    prediction = Prediction(logits, box_logits.sigmoid())
    return Selection(content.detach(), box_logits.detach(), prediction)


def layer_count(asked: int | None, *, default: int, trained: int, training: bool) -> int:
    """Decoder layers to run.

    They are asked for at inference only: training runs all, because all are supervised.

    Raises:
        ValueError: if there are not so many.
    """
    if training:
        if asked is not None:
            raise ValueError("decoder_layers is for inference; training supervises all layers")
        return trained
    count = default if asked is None else asked
    if not 1 <= count <= trained:
        raise ValueError(f"decoder_layers must be between 1 and {trained}; got {count}")
    return count


def query_count(asked: int | None, default: int) -> int:
    """Queries to select.

    Raises:
        ValueError: if it is less than one.
    """
    queries = default if asked is None else asked
    if queries < 1:
        raise ValueError(f"queries must be at least 1; got {queries}")
    return queries
