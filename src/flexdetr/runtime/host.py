"""What a board's own processor does between and behind the two graphs of a detector; numpy only.

This file travels with the artifact. A picture is resized to the network's size, given to ``encode`` as float32
(1, 3, H, W) with values 0 to 255, and then:

    memory, tokens, scores, boxes = encode(picture)
    content, reference = choose(tokens, scores, boxes, queries)
    logits, boxes = decode(content, reference, memory)
    boxes_xyxy, scores, labels = finish(logits[0], boxes[0], height, width)
"""

from __future__ import annotations

import numpy as np


def choose(
    tokens: np.ndarray, scores: np.ndarray, boxes: np.ndarray, queries: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens with the highest class score become queries.

    Tokens (1, S, D) have logits (1, S, C) and boxes (1, S, 4), cxcywh fractions.

    Returns:
        Content (1, Q, D) and reference boxes (1, Q, 4), best first; equal scores keep the order of the tokens.
    """
    best = np.argsort(-scores[0].max(-1), kind="stable")[:queries]
    return np.ascontiguousarray(tokens[:, best]), np.ascontiguousarray(boxes[:, best])


def finish(
    logits: np.ndarray, boxes: np.ndarray, height: int, width: int, top: int = 300
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best pairs of query and class, as boxes in the original picture; no NMS.

    ``logits`` (Q, C) are before the sigmoid, ``boxes`` (Q, 4) cxcywh fractions; at most ``top`` pairs are kept.

    Returns:
        Boxes xyxy in pixels (N, 4), scores (N,) and labels (N,), positions in the class list; best first.
    """
    flat = logits.astype(np.float32, copy=False).ravel()
    best = _largest(flat, top)
    queries, labels = np.divmod(best, logits.shape[1])
    return (
        boxes_to_pixels(boxes[queries], height, width),
        sigmoid(flat[best]),
        labels.astype(np.int64, copy=False),
    )


def boxes_to_pixels(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 4) cxcywh fractions as (N, 4) float32 xyxy pixels, clipped to a picture of that size."""
    boxes = boxes.astype(np.float32, copy=False)
    centre, half = boxes[:, :2], boxes[:, 2:] * np.float32(0.5)
    edge = np.array([width, height, width, height], np.float32)
    return np.clip(np.concatenate([centre - half, centre + half], 1) * edge, 0, edge)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The logistic function without overflow: exp is only taken of numbers <= 0."""
    decay = np.exp(-np.abs(logits))
    return (np.where(logits >= 0, 1.0, decay) / (1.0 + decay)).astype(np.float32)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the largest values, largest first, equal ones in their order."""
    candidates = np.arange(len(values))
    if count < len(values):
        # argpartition would break ties at the border arbitrarily: take what is above it, then fill up in order.
        border = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > border)
        equal = np.flatnonzero(values == border)[: count - len(above)]
        candidates = np.sort(np.concatenate([above, equal]))
    return candidates[np.argsort(-values[candidates], kind="stable")]
