from __future__ import annotations

import pytest

from flexdetr.classes import Classes
from flexdetr.data.yolo_lines import LineError, read_row, split_line, unusual_forms

CLASSES = Classes(("a", "b"), (0, 4))


def _read(line, *others, keypoint_values=0):
    rows = [split_line(number, text) for number, text in enumerate((line, *others), start=1)]
    return read_row(rows[0], CLASSES, unusual_forms(rows, keypoint_values))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x 0.5 0.5 1 1", "something else than numbers"),
        ("0 0.5 x 1 1", "something else than numbers"),
        ("0 0.5 0.5 1", "has 3 numbers"),
        ("0", "has 0 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 7 numbers"),
        ("0 320 240 64 64", "fractions"),
        ("0 0.5 nan 1 1", "fractions"),
        ("1 0.5 0.5 1 1", "valid: 0, 4"),
        ("0.5 0.5 0.5 1 1", "class id 0.5"),
        ("nan 0.5 0.5 1 1", "class id nan"),
        ("-1 0.5 0.5 1 1", "class id -1"),
    ],
)
def test_bad_lines(line, message):
    with pytest.raises(LineError, match=message):
        _read(line)


def test_boxes_and_polygons():
    assert _read("4 0.5 0.5 0.5 1") == (1, (0.25, 0.0, 0.75, 1.0), "box")
    assert _read("0.0 0.5 0.5 0.5 1")[0] == 0
    assert _read("0 0.1 0.2 0.9 0.3 0.4 0.8") == (0, (0.1, 0.2, 0.9, 0.8), "polygon")


BOX = (0.25, 0.25, 0.75, 0.75)


@pytest.mark.parametrize("column", ["0.87", "17", "0", "1", "-1"])
def test_a_further_column_is_passed_over(column):
    assert _read(f"0 0.5 0.5 0.5 0.5 {column}") == (0, BOX, "columns")


def test_a_confidence_and_a_track():
    tracked = "0 0.5 0.5 0.5 0.5 0.9 1", "0 0.5 0.5 0.5 0.5 0.9 7"
    assert _read(*tracked) == _read(*reversed(tracked)) == (0, BOX, "columns")
    assert _read("0 0.5 0.5 0.5 0.5 0.9 1")[2] == "polygon"  # no line shows that it is none


@pytest.mark.parametrize("visible", [0, 1, 2])
def test_keypoints_that_the_description_announces(visible):
    line = f"0 0.5 0.5 0.5 0.5 0.3 0.3 {visible} 0.5 0.6 {visible}"
    assert _read(line, keypoint_values=6) == (0, BOX, "keypoints")
    assert _read("0 0.5 0.5 0.5 0.5 0.3 0.3 0.5 0.6", keypoint_values=4) == (0, BOX, "keypoints")


def test_keypoints_show_themselves_by_their_visibilities():
    lines = "0 0.5 0.5 0.5 0.5 0.3 0.3 0 0.5 0.6 1", "0 0.5 0.5 0.5 0.5 0.3 0.3 2 0.5 0.6 1"
    assert _read(*lines) == _read(*reversed(lines)) == (0, BOX, "keypoints")
    assert _read(lines[0])[2] == "polygon"
    assert _read("0 0.5 0.5 0.5 0.5 0.3 0.3 2") == (0, BOX, "keypoints")
