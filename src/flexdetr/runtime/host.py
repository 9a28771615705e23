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

    Args:
        tokens: (1, S, D).
        scores: (1, S, C) logits.
        boxes: (1, S, 4) cxcywh fractions.
        queries: Q.

    Returns:
        Content (1, Q, D) and reference boxes (1, Q, 4), best first; equal scores keep the order of the tokens.
    """
    best = np.argsort(-scores[0].max(-1), kind="stable")[:queries]
    return np.ascontiguousarray(tokens[:, best]), np.ascontiguousarray(boxes[:, best])


def finish(
    logits: np.ndarray, boxes: np.ndarray, height: int, width: int, top: int = 300
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best pairs of query and class, as boxes in the original picture; no NMS.

    Args:
        logits: (Q, C) before the sigmoid.
        boxes: (Q, 4) cxcywh fractions.
        height: of the original picture.
        width: of the original picture.
        top: pairs to keep at most.

    Returns:
        Boxes xyxy in pixels (N, 4), scores (N,) and labels (N,), positions in the class list; best first.
    """
    flat = logits.astype(np.float32).ravel()
    best = np.argsort(-flat, kind="stable")[:top]
    queries, labels = np.divmod(best, logits.shape[1])
    chosen = boxes[queries].astype(np.float32)
    centre, half = chosen[:, :2], chosen[:, 2:] / 2
    edge = np.array([width, height, width, height], np.float32)
    boxes_xyxy = np.clip(np.concatenate([centre - half, centre + half], 1) * edge, 0, edge)
    scores = (1 / (1 + np.exp(-np.clip(flat[best].astype(np.float64), -700, 700)))).astype(np.float32)
    return boxes_xyxy, scores, labels
