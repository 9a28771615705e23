"""Suppression in PyTorch and in numpy against torchvision's published choice, and against each other."""

from __future__ import annotations

import logging
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.boxes import xyxy_to_cxcywh
from flexdetr.model.outputs import Prediction
from flexdetr.model.suppression import after_suppression, multiclass_nms
from flexdetr.runtime import nms
from flexdetr.runtime.nms import Limits, suppress
from flexdetr.runtime.process import finish_dense

SCENES = ("plain", "few", "many")


@pytest.mark.parametrize("scene", SCENES)
def test_torch_keeps_what_torchvision_keeps(scene: str, golden: ModuleType) -> None:
    arrays = golden.arrays("nms")
    boxes, scores = (torch.from_numpy(arrays[f"{scene}.{name}"]).float() for name in ("boxes", "scores"))
    found = multiclass_nms(boxes[None], scores.T[None], 300, 0.7, 0.001)[:300]
    assert found[:, 0].eq(0).all()
    np.testing.assert_array_equal(found[:, 2], arrays[f"{scene}.keep_box"])
    np.testing.assert_array_equal(found[:, 1], arrays[f"{scene}.keep_class"])


@pytest.mark.parametrize("scene", SCENES)
def test_numpy_keeps_what_torchvision_keeps(scene: str, golden: ModuleType) -> None:
    arrays = golden.arrays("nms")
    boxes, scores = (arrays[f"{scene}.{name}"] for name in ("boxes", "scores"))
    box, label = suppress(boxes, scores, Limits())
    np.testing.assert_array_equal(box, arrays[f"{scene}.keep_box"])
    np.testing.assert_array_equal(label, arrays[f"{scene}.keep_class"])
    np.testing.assert_array_equal(scores[box, label], arrays[f"{scene}.keep_score"])


def drawn(seed: int, images: int, cells: int, classes: int) -> Prediction:
    draw = torch.Generator().manual_seed(seed)
    centres = 0.5 + 0.1 * torch.randn(images, cells, 2, generator=draw)
    sides = 0.2 + 0.1 * torch.rand(images, cells, 2, generator=draw)
    return Prediction(
        2 * torch.randn(images, cells, classes, generator=draw), torch.cat([centres, sides], -1)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 3), st.sampled_from([1, 7, 60]), st.integers(1, 4))
def test_both_forms_answer_the_same(seed: int, images: int, cells: int, classes: int) -> None:
    prediction = drawn(seed, images, cells, classes)
    sizes = torch.tensor([[120 + i, 200] for i in range(images)])
    limits = Limits(0.3, 0.45, 12)
    boxes, scores, labels = after_suppression(prediction, sizes, limits, 10)
    assert boxes.shape == (images, 10, 4)
    for image in range(images):
        height, width = sizes[image].tolist()
        logits, own = prediction.logits[image].numpy(), prediction.boxes[image].numpy()
        want = finish_dense(logits, own, height, width, limits, 10)
        count = len(want[1])
        assert not scores[image, count:].any()
        np.testing.assert_allclose(boxes[image, :count], want[0], atol=1e-3)
        np.testing.assert_allclose(scores[image, :count], want[1], atol=1e-6)
        np.testing.assert_array_equal(labels[image, :count], want[2])


def test_nothing_above_the_score_is_an_answer_of_nothing() -> None:
    prediction = drawn(0, 2, 30, 3)
    limits = Limits(score=1.0)
    _, scores, _ = after_suppression(prediction, torch.tensor([[64, 64]] * 2), limits, 5)
    assert not scores.any()
    assert not len(
        finish_dense(prediction.logits[0].numpy(), prediction.boxes[0].numpy(), 64, 64, limits, 5)[1]
    )


def test_a_box_may_stay_with_several_classes() -> None:
    box, label = suppress(np.array([[0, 0, 1, 1]]), np.array([[0.9, 0.8]]), Limits())
    assert (box.tolist(), label.tolist()) == ([0, 0], [0, 1])


def test_candidates_beyond_the_limit_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nms, "CANDIDATES", 20)
    monkeypatch.setattr("flexdetr.model.suppression.CANDIDATES", 20)
    prediction = drawn(1, 2, 30, 2)
    with caplog.at_level(logging.INFO, logger="flexdetr"):
        answer = after_suppression(prediction, torch.tensor([[64, 64]] * 2), Limits(0.0), 300)
        want = finish_dense(
            prediction.logits[0].numpy(), prediction.boxes[0].numpy(), 64, 64, Limits(0.0), 300
        )
    assert "80 of 120 boxes above the score 0 are left out" in caplog.text
    assert "40 of 60 boxes above the score 0 are left out" in caplog.text
    np.testing.assert_allclose(answer[1][0, : len(want[1])], want[1], atol=1e-6)


def test_a_class_keeps_no_more_than_asked() -> None:
    boxes = xyxy_to_cxcywh(torch.rand(1, 50, 4))
    scores = torch.rand(1, 2, 50)
    found = multiclass_nms(boxes, scores, 3, 1.0, 0.0)
    assert torch.bincount(found[:, 1]).tolist() == [3, 3]
    assert torch.equal(scores[0, 0, found[found[:, 1] == 0, 2]], scores[0, 0].topk(3).values)


def test_ten_thousand_boxes_above_the_score() -> None:
    prediction = drawn(3, 1, 5000, 2)
    boxes, scores, _ = after_suppression(prediction, torch.tensor([[640, 640]]), Limits(0.0), 300)
    assert torch.isfinite(boxes).all()
    assert scores[0, 0] > 0


def test_boxes_beyond_the_most_that_are_kept_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Both forms count the same, of each picture that has more."""
    prediction = drawn(1, 2, 60, 2)
    sizes, limits = torch.tensor([[64, 64]] * 2), Limits(0.0, 0.5)
    everything = after_suppression(prediction, sizes, limits, 300)[1]
    left = (everything > 0).sum(1).tolist()
    for form in ("torch", "numpy"):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="flexdetr"):
            for image in range(2):
                one = Prediction(prediction.logits[image : image + 1], prediction.boxes[image : image + 1])
                if form == "torch":
                    after_suppression(one, sizes[:1], limits, 5)
                else:
                    finish_dense(one.logits[0].numpy(), one.boxes[0].numpy(), 64, 64, limits, 5)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 2
        for image, line in enumerate(told):
            best = float(everything[image, 5])
            assert line.startswith(f"{left[image] - 5} boxes that suppression left are dropped")
            assert f"scores up to {best:.3g}: 5 of a picture are kept at most" in line


def test_nothing_is_told_where_nothing_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    prediction = drawn(1, 1, 20, 2)
    with caplog.at_level(logging.INFO, logger="flexdetr"):
        after_suppression(prediction, torch.tensor([[64, 64]]), Limits(0.0, 0.5), 40)
        finish_dense(prediction.logits[0].numpy(), prediction.boxes[0].numpy(), 64, 64, Limits(0.0, 0.5), 40)
    assert not caplog.records
