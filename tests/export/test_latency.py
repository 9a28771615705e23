"""What is timed is the deploy form's graph; no length of time is tested."""

from __future__ import annotations

import numpy as np

from flexdetr.api import Detector
from flexdetr.export import latency


def test_a_compiled_detector_answers_pictures_of_any_size_and_is_timed_beside_another(
    detector: Detector,
) -> None:
    call = latency.compiled(detector.model, detector.config, "", "fp32", threads=1)
    picture = np.full((50, 70, 3), 90, np.uint8)
    boxes, scores = (call(picture).get_output_tensor(place).data for place in (0, 1))
    assert boxes.shape[:2] == scores.shape
    assert boxes[..., 2].max() <= 70
    assert latency.times({"one": call, "other": call}, [picture]).keys() == {"one", "other"}
