from __future__ import annotations

import numpy as np

from flexdetr.export.compare import explain
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.parity import Tolerance

SIZE = (200, 300)
TOLERANCE = Tolerance()


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


def test_mistakes_around_the_network_are_put_in_words() -> None:
    several = [drawn(seed) for seed in range(4)]
    shifted = [made(one.boxes_xyxy, one.scores, (one.indices + 1) % 3) for one in several]
    assert "shifted by 1" in str(explain(several, shifted, TOLERANCE, 3))
    scale = np.array([SIZE[0] / SIZE[1], SIZE[1] / SIZE[0]] * 2)
    swapped = [
        made(np.minimum(one.boxes_xyxy * scale, [200, 300, 200, 300]), one.scores, one.indices)
        for one in several
    ]
    assert "width and height are swapped" in str(explain(several, swapped, TOLERANCE, 3))
    turned = [made(one.boxes_xyxy[:, [1, 0, 3, 2]], one.scores, one.indices) for one in several]
    assert "y, x" in str(explain(several, turned, TOLERANCE, 3))
    noisy = [made(one.boxes_xyxy + 5, one.scores, one.indices) for one in several]
    assert explain(several, noisy, TOLERANCE, 3) is None
