"""Post-processing against the published one's answers, and in PyTorch against the runtimes' numpy."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.boxes import clip_xyxy
from flexdetr.model.outputs import Prediction
from flexdetr.model.postprocess import best_pairs
from flexdetr.runtime.host import finish


def test_equals_the_reference(golden: ModuleType) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in golden.arrays("losses").items()}
    prediction = Prediction(arrays["decoder_logits"][-1], arrays["decoder_boxes"][-1])
    boxes_xyxy, scores, labels = best_pairs(prediction, arrays["post.sizes"].flip(-1))
    assert torch.equal(labels, arrays["post.labels"])
    want = clip_xyxy(
        arrays["post.boxes"], arrays["post.sizes"].flip(-1)[:, None]
    )  # which the published one leaves out
    torch.testing.assert_close(boxes_xyxy, want, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(scores, arrays["post.scores"], rtol=1e-6, atol=0)


def test_a_query_may_answer_with_two_classes() -> None:
    logits = torch.tensor([[[2.0, 1.0, -5.0], [-4.0, -4.0, 0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.2, 0.4]]])
    boxes_xyxy, scores, labels = best_pairs(Prediction(logits, boxes), torch.tensor([[100, 200]]), top=3)
    assert labels.tolist() == [[0, 1, 2]]
    want = torch.tensor([[[80.0, 30, 120, 70], [80, 30, 120, 70], [0, 0, 40, 40]]])
    torch.testing.assert_close(boxes_xyxy, want)
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0, 0.0]]).sigmoid())


def test_fewer_pairs_than_asked_for() -> None:
    prediction = Prediction(torch.zeros(2, 3, 2), torch.full((2, 3, 4), 0.5))
    boxes_xyxy, scores, labels = best_pairs(prediction, torch.tensor([[10, 20], [30, 40]]))
    assert labels.shape == scores.shape == (2, 6)
    assert boxes_xyxy.shape == (2, 6, 4)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 80), st.integers(0, 1000))
def test_both_forms_answer_the_same(queries: int, classes: int, top: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 3, (queries, classes)).astype(np.float32)
    boxes = random.random((queries, 4), np.float32)
    sizes = torch.tensor([[117, 333]])
    prediction = Prediction(torch.from_numpy(logits)[None], torch.from_numpy(boxes)[None])
    graph = [part[0].numpy() for part in best_pairs(prediction, sizes, top)]
    host = finish(logits, boxes, 117, 333, top)
    for one, other in zip(graph, host, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-4)
