"""What is scored is what a person gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexdetr.api import Detector
from flexdetr.data.detect import read
from flexdetr.data.images import read_image
from flexdetr.data.loader import EvaluationLoader
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine.evaluate import detect


def test_what_is_scored_is_what_predict_answers_in_the_same_precision(tmp_path):
    records = read(draw_scenes(tmp_path / "data", train=1, val=3, test=0, size=(96, 112))).splits["val"]
    torch.manual_seed(0)
    detector = Detector("flexdetr_pico", classes=["ball", "crate"], image_size=64)
    decoder = detector.model.head
    with torch.no_grad():
        for score in decoder.scores:
            score.weight.normal_(0, 0.5)
        for box in decoder.boxes:
            box.layers[-1].weight.normal_(0, 0.3)  # boxes that reach beyond the pictures
    scored = detect(
        detector.model, EvaluationLoader(records, (64, 64), 2, workers=0), device=torch.device("cpu")
    )
    borders = 0
    for record in records:
        boxes, scores, labels = scored[record.image_id]
        answer = detector.predict(read_image(record.path), 0.0, precision="fp32")
        assert boxes == pytest.approx(answer.boxes_xyxy, abs=1e-3)
        assert scores == pytest.approx(answer.scores, abs=1e-5)
        assert labels.tolist() == answer.indices.tolist()
        borders += int((boxes == np.array([0, 0, 112, 96], np.float32)).sum())
    assert borders > 10, "boxes were cut off at the borders"
