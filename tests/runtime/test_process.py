"""Pre- and post-processing: the official answer, the data set's ids, and numbers that stay finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import vectors
from flexdetr.classes import Classes
from flexdetr.runtime import host, process


@pytest.fixture(scope="module")
def golden():
    return vectors.arrays("losses")


@pytest.mark.parametrize("image", range(3))
def test_select_equals_the_official_post_processor(golden, image):
    width, height = golden["post.sizes"][image].tolist()
    found = process.select(
        golden["decoder_logits"][-1, image], golden["decoder_boxes"][-1, image], (height, width)
    )
    np.testing.assert_array_equal(found.indices, golden["post.labels"][image])
    np.testing.assert_allclose(found.scores, golden["post.scores"][image], atol=1e-6)
    clipped = np.clip(golden["post.boxes"][image], 0, [width, height, width, height])
    np.testing.assert_allclose(found.boxes_xyxy, clipped, atol=1e-3)


def test_decode_maps_head_indices_to_the_data_sets_ids(golden):
    classes = Classes(tuple(f"class {i}" for i in range(80)), tuple(range(1, 160, 2)))
    found = process.decode(
        golden["decoder_logits"][-1, 0],
        golden["decoder_boxes"][-1, 0],
        (480, 640),
        classes,
        threshold=0.5,
        image_id="a",
    )
    expected = golden["post.labels"][0][golden["post.scores"][0] >= 0.5]
    assert found.indices.tolist() == expected.tolist()
    assert found.labels.tolist() == (2 * expected + 1).tolist()
    assert found.names == [f"class {i}" for i in expected]
    assert found.image_id == "a"
    assert found.size == (480, 640)
    assert found.scores.min() >= 0.5


def test_a_threshold_for_each_class():
    logits = np.array([[2.0, -9.0], [-9.0, 2.0], [0.0, -9.0]])
    boxes = np.full((3, 4), 0.5)
    classes = Classes.of(["a", "b"])
    found = process.decode(logits, boxes, (10, 10), classes, threshold=[0.3, 0.95])
    assert found.names == ["a", "a"]
    with pytest.raises(ValueError, match="3 thresholds for 2 classes"):
        process.decode(logits, boxes, (10, 10), classes, threshold=[0.1, 0.2, 0.3])


@given(
    arrays.arrays(np.float32, (7, 3), elements=st.sampled_from([-4.0, -1.0, 0.0, 0.5, 3.0])),
    st.integers(1, 30),
)
@settings(deadline=None)
def test_ties_keep_their_order(logits, top):
    order = np.argsort(-logits.ravel(), kind="stable")[:top]
    boxes = np.linspace(0.2, 0.6, 28, dtype=np.float32).reshape(7, 4)
    found = process.select(logits, boxes, (100, 100), top)
    assert found.indices.tolist() == (order % 3).tolist()
    np.testing.assert_array_equal(found.boxes_xyxy, host.boxes_to_pixels(boxes[order // 3], 100, 100))


@given(arrays.arrays(np.float32, 20, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(deadline=None)
def test_sigmoid_is_a_probability_everywhere(logits):
    with np.errstate(over="raise", invalid="raise"):
        scores = host.sigmoid(logits)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(host.sigmoid(np.sort(logits))) >= 0).all()


def test_sigmoid_of_infinities_and_of_half_precision():
    assert host.sigmoid(np.array([-np.inf, 0, np.inf])).tolist() == [0, 0.5, 1]
    found = process.select(np.array([[90.0]], np.float16), np.full((1, 4), 0.5, np.float16), (4, 4))
    assert found.scores.tolist() == [1]


@given(
    arrays.arrays(np.float32, (5, 4), elements=st.floats(-2, 3, width=32)),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
@settings(deadline=None)
def test_boxes_stay_in_the_picture(boxes, height, width):
    x0, y0, x1, y1 = host.boxes_to_pixels(np.abs(boxes), height, width).T
    assert ((x0 >= 0) & (x0 <= x1) & (x1 <= width)).all()
    assert ((y0 >= 0) & (y0 <= y1) & (y1 <= height)).all()


def test_boxes_are_scaled_by_the_pictures_own_sides():
    boxes = host.boxes_to_pixels(np.array([[0.5, 0.25, 0.5, 0.5]]), 100, 400)
    assert boxes.tolist() == [[100, 0, 300, 50]]


def test_wrong_answers_of_a_model_are_refused():
    classes = Classes.of(["a", "b"])
    logits, boxes = np.zeros((3, 2)), np.zeros((3, 4))
    with pytest.raises(process.AnswerError, match="NaN"):
        process.decode(np.full((3, 2), np.nan), boxes, (4, 4), classes)
    with pytest.raises(process.AnswerError, match="2 names are known"):
        process.decode(np.zeros((3, 5)), boxes, (4, 4), classes)
    with pytest.raises(process.AnswerError, match=r"boxes \(Q, 4\)"):
        process.decode(logits, np.zeros((2, 4)), (4, 4), classes)
    with pytest.raises(ValueError, match="top=0"):
        process.decode(logits, boxes, (4, 4), classes, top=0)
    outside = process.Selection(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([5]))
    with pytest.raises(process.AnswerError, match="class index 5"):
        process.label(outside, (4, 4), classes)


def test_prepare_resizes_to_exactly_the_size_asked_for():
    image = np.zeros((50, 70, 3), np.uint8)
    image[:, 35:] = (255, 128, 0)
    prepared = process.prepare(image, (32, 64))
    assert prepared.shape == (3, 32, 64)
    assert prepared.dtype == np.uint8
    assert prepared.flags["C_CONTIGUOUS"]
    assert prepared[:, 0, 0].tolist() == [0, 0, 0]
    assert prepared[:, 31, 63].tolist() == [255, 128, 0]


def test_prepare_leaves_an_image_of_that_size_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    assert (process.prepare(image, (8, 9)) == image.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_prepare_refuses_what_is_no_image(image):
    with pytest.raises(ValueError, match=r"channels\) uint8"):
        process.prepare(image, (8, 8))
