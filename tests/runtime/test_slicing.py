"""Tiles cover the picture, and what they find is what is in the picture: once, whole, in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.runtime.detections import Detections
from flexdetr.runtime.slicing import Slicing, Tile, detect_sliced, merge, tiles


@given(st.integers(1, 500), st.integers(1, 500), st.integers(32, 128), st.floats(0, 0.9))
def test_tiles_cover_the_picture_and_overlap(height, width, size, overlap):
    slicing = Slicing(size, overlap)
    places = tiles(height, width, slicing)
    covered = np.zeros((height, width), bool)
    for one in places:
        covered[one.top : one.bottom, one.left : one.right] = True
        assert (one.bottom - one.top, one.right - one.left) == (min(size, height), min(size, width))
        assert one.left >= 0
        assert one.top >= 0
    assert covered.all()
    assert len(set(places)) == len(places)
    lefts = sorted({one.left for one in places})
    gaps = np.diff(lefts)
    assert (gaps <= max(1, int(size * (1 - overlap)))).all()


def test_a_picture_no_larger_than_a_tile_is_one_tile():
    assert tiles(100, 640, Slicing(640)) == [Tile(0, 0, 640, 100)]
    calls = []

    def detect(images):
        calls.append([image.shape for image in images])
        return [Detections.empty() for _ in images]

    assert len(detect_sliced(detect, np.zeros((100, 640, 3), np.uint8), Slicing(640))) == 0
    assert calls == [[(100, 640, 3)]]


def squares(images):
    """Finds bright rectangles exactly, as far as the picture shows them; the blue channel numbers them."""
    answers = []
    for image in images:
        found = []
        for number in np.unique(image[..., 2]).tolist():
            if number:
                rows, columns = np.nonzero(image[..., 2] == number)
                found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, number % 3))
        boxes = [row[:4] for row in found]
        labels = [row[4] for row in found]
        # A piece looks as good as the whole, or better.
        scores = [0.6 + 0.3 / (1 + (x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in boxes]
        answers.append(Detections(boxes, scores, labels, [f"c{label}" for label in labels], labels))
    return answers


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["nms", "fusion"]))
def test_objects_are_found_once_and_whole(seed, way):
    rng = np.random.default_rng(seed)
    image = np.zeros((300, 420, 3), np.uint8)
    truth = []
    for number in range(1, 13):  # in cells, so that none hides another
        row, column = divmod(number - 1, 4)
        height, width = rng.integers(3, [90, 95])
        top, left = row * 100 + rng.integers(0, 100 - height), column * 105 + rng.integers(0, 105 - width)
        image[top : top + height, left : left + width, 2] = number
        truth.append([left, top, left + width, top + height, number % 3])
    found = detect_sliced(squares, image, Slicing(128, 0.25, way))
    got = [[*box, label] for box, label in zip(found.boxes_xyxy.tolist(), found.labels.tolist(), strict=True)]
    assert sorted(got) == pytest.approx(np.array(sorted(truth)), abs=1e-3)
    assert (np.diff(found.scores) <= 0).all()
    assert found.size == (300, 420)


def test_what_is_larger_than_a_tile_needs_the_whole_picture():
    image = np.zeros((200, 200, 3), np.uint8)
    image[10:190, 10:190, 2] = 1
    assert detect_sliced(squares, image, Slicing(64)).boxes_xyxy.tolist() == [[10, 10, 190, 190]]
    assert len(detect_sliced(squares, image, Slicing(64, whole=False))) > 1


def of(boxes, scores, labels=None):
    labels = [0] * len(boxes) if labels is None else labels
    return Detections(boxes, scores, labels, [f"c{label}" for label in labels], labels)


NOT_CUT = np.zeros(3, bool)


def test_nms_keeps_the_best_and_fusion_takes_the_weighted_mean():
    found = of([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], [0.6, 0.2, 0.9])
    kept = merge(found, NOT_CUT, Slicing())
    assert kept.boxes_xyxy.tolist() == [[50, 50, 60, 60], [0, 0, 10, 10]]
    fused = merge(found, NOT_CUT, Slicing(merge="fusion"))
    assert fused.boxes_xyxy[1].tolist() == pytest.approx([0.25, 0, 10.25, 10])
    assert fused.scores.tolist() == pytest.approx([0.9, 0.6])
    nothing_sure = merge(of([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0]), NOT_CUT[:2], Slicing(merge="fusion"))
    assert nothing_sure.boxes_xyxy.tolist() == [[0, 0, 10, 10]]


def test_other_classes_are_other_objects():
    found = of([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8, 0.7], [0, 1, 0])
    assert merge(found, NOT_CUT, Slicing()).labels.tolist() == [0, 1]


def test_a_piece_stays_where_only_a_guess_covers_it():
    found = of([[0, 0, 10, 10], [0, 0, 30, 30], [90, 90, 95, 95]], [0.9, 0.1, 0.9])
    cut = np.array([True, False, False])
    assert len(merge(found, cut, Slicing())) == 3
    likely = of([[0, 0, 10, 10], [0, 0, 30, 30], [90, 90, 95, 95]], [0.9, 0.5, 0.9])
    assert [*merge(likely, cut, Slicing()).scores] == pytest.approx([0.9, 0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "at least 32"),
        ({"size": (64, 0)}, "at least 32"),
        ({"overlap": 1.0}, "between 0 and 0.9"),
        ({"iou": 0}, "above 0"),
        ({"merge": "nmm"}, "nms"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Slicing(**options)
