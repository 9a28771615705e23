"""Post-processing against the published one's answers."""

from __future__ import annotations

from types import ModuleType

import torch

from flexdetr.model.outputs import Prediction
from flexdetr.model.postprocess import postprocess


def test_equals_the_reference(golden: ModuleType) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in golden.arrays("losses").items()}
    prediction = Prediction(arrays["decoder_logits"][-1], arrays["decoder_boxes"][-1])
    labels, boxes_xyxy, scores = postprocess(prediction, arrays["post.sizes"].flip(-1))
    assert torch.equal(labels, arrays["post.labels"])
    torch.testing.assert_close(boxes_xyxy, arrays["post.boxes"], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(scores, arrays["post.scores"], rtol=1e-6, atol=0)


def test_a_query_may_answer_with_two_classes() -> None:
    logits = torch.tensor([[[2.0, 1.0, -5.0], [-4.0, -4.0, 0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.2, 0.4]]])
    labels, boxes_xyxy, scores = postprocess(Prediction(logits, boxes), torch.tensor([[100, 200]]), top=3)
    assert labels.tolist() == [[0, 1, 2]]
    want = torch.tensor([[[80.0, 30, 120, 70], [80, 30, 120, 70], [0, 0, 40, 40]]])
    torch.testing.assert_close(boxes_xyxy, want)
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0, 0.0]]).sigmoid())


def test_fewer_pairs_than_asked_for() -> None:
    prediction = Prediction(torch.zeros(2, 3, 2), torch.full((2, 3, 4), 0.5))
    labels, boxes_xyxy, scores = postprocess(prediction, torch.tensor([[10, 20], [30, 40]]))
    assert labels.shape == scores.shape == (2, 6)
    assert boxes_xyxy.shape == (2, 6, 4)
