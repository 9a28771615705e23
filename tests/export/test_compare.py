from __future__ import annotations

import numpy as np

from fakes.detections import SIZE, drawn, made
from flexdetr.export.compare import explain
from flexdetr.runtime.parity import Tolerance

TOLERANCE = Tolerance()


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
