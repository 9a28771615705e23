from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexdetr.data.records import RawBox, RawImage, assemble

WIDTH, HEIGHT = 24, 16


def _raw(path, *corners, labels=None, **options):
    labels = labels or [0] * len(corners)
    boxes = [
        RawBox(xyxy, label, line) for line, (xyxy, label) in enumerate(zip(corners, labels, strict=True), 1)
    ]
    return RawImage(path, "it", path.with_suffix(".txt"), boxes=boxes, **options)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "picture.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    return path


@given(st.lists(st.tuples(*[st.floats(-50, 50) for _ in range(4)]), max_size=8))
def test_boxes_end_up_inside_with_area_and_aligned_labels(picture, corners):
    defects = []
    labels = list(range(len(corners)))
    record = assemble(_raw(picture, *corners, labels=labels), defects)
    boxes = record.boxes_xyxy
    assert ((boxes >= 0) & (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT])).all()
    assert len(boxes) == len(record.labels) == len(record.areas) == len(record.iscrowd)
    for label, box in zip(record.labels, boxes, strict=True):
        assert box == pytest.approx(np.clip(corners[label], 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]), abs=1e-4)
    dropped = [defect for defect in defects if "dropped" in defect.message]
    assert len(dropped) == len(corners) - len(boxes)


def test_each_finding_has_its_line(picture):
    defects = []
    corners = [(1, 1, 9, 9), (5, 5, 5, 9), (30, 2, 40, 9), (-3, 2, 8, 9), (1, 1, 9, 9), (1, 1, 9, 8.9)]
    record = assemble(_raw(picture, *corners), defects)
    assert len(record) == 4
    assert [(defect.line, defect.severity) for defect in defects] == [
        (line, "warning") for line in range(2, 7)
    ]
    words = ["zero area", "lies outside", "clipped", "repeats line 1", "nearly the same as line 1"]
    assert all(word in defect.message for word, defect in zip(words, defects, strict=True))


def test_same_place_of_another_class_is_no_repetition(picture):
    defects = []
    assemble(_raw(picture, (1, 1, 9, 9), (1, 1, 9, 9), labels=[0, 1]), defects)
    assert not defects


def test_area_of_the_annotation_wins(picture):
    raw = RawImage(picture, 1, picture, boxes=[RawBox((0, 0, 4, 4), 0, area=7.5), RawBox((0, 0, 2, 4), 0)])
    assert assemble(raw, []).areas.tolist() == [7.5, 8.0]


def test_fractions_become_pixels(picture):
    record = assemble(_raw(picture, (0.25, 0.5, 1, 1), fractions=True), [])
    assert record.boxes_xyxy.tolist() == [[6, 8, 24, 16]]


def test_coordinates_that_are_no_numbers_are_an_error(picture):
    defects = []
    assert assemble(_raw(picture, (0, 0, float("nan"), 4)), defects) is None
    assert (defects[0].severity, defects[0].line) == ("error", 1)


def test_missing_image_is_an_error_that_names_it(tmp_path):
    defects = []
    assert assemble(_raw(tmp_path / "gone.png"), defects) is None
    assert defects[0].file == tmp_path / "gone.png"
    assert "not found (asked for by gone.txt)" in defects[0].message


def test_another_size_than_declared_is_an_error(picture):
    defects = []
    assert assemble(_raw(picture, (1, 1, 5, 5), declared=(48, 32)), defects) is None
    assert "states 48x32, the image has 24x16" in defects[0].message


def test_exchanged_width_and_height_is_a_warning_where_boxes_fit(picture):
    defects = []
    assert assemble(_raw(picture, (1, 1, 20, 5), declared=(HEIGHT, WIDTH)), defects) is not None
    assert defects[0].severity == "warning"
    assert assemble(_raw(picture, (1, 1, 5, 20), declared=(HEIGHT, WIDTH)), defects) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_orientation(tmp_path, orientation):
    """A white rectangle is where its box is, whichever frame the annotation was made in."""
    stored = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    stored[2:7, 3:14] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(stored).save(path, exif=exif)
    from flexdetr.data.images import read_image

    upright = read_image(path)
    rows, columns = np.nonzero(upright[..., 0])
    truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    size = (upright.shape[1], upright.shape[0])
    record = assemble(_raw(path, truth, declared=size), [])
    assert record.boxes_xyxy[0] == pytest.approx(truth)
    assert (record.width, record.height) == size
    if orientation > 4:  # otherwise the two frames have one size, and upright is meant
        record = assemble(_raw(path, (3, 2, 14, 7), declared=(WIDTH, HEIGHT)), [])
        assert record.boxes_xyxy[0] == pytest.approx(truth)
