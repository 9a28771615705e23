"""Detections that are drawn: what comparisons of two runs are tested with."""

from __future__ import annotations

import numpy as np

from flexdetr.runtime.detections import Detections

SIZE = (200, 300)


def drawn(seed: int, count: int = 12, num_classes: int = 3, best: float = 0.95) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (count, 2)) * SIZE[::-1]
    side = rng.uniform(0.05, 0.3, (count, 2)) * SIZE[::-1]
    scores = np.sort(rng.uniform(0, best, count))[::-1]
    labels = rng.integers(0, num_classes, count)
    return made(np.concatenate([low, low + side], 1), scores, labels)


def made(boxes: object, scores: object, labels: object) -> Detections:
    indices = np.asarray(labels, np.int64)
    names = [f"class {i}" for i in indices]
    return Detections(np.asarray(boxes), np.asarray(scores), indices, names, indices, size=SIZE)  # type: ignore[arg-type]
