from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.data.outlines import box_around

SQUARE = [20, 16, 60, 16, 60, 48, 20, 48]


@pytest.mark.parametrize(
    "outline", [SQUARE, [SQUARE], [SQUARE, [30.0, 20, 40, 20, 40, 30]], [str(v) for v in SQUARE]]
)
def test_polygons(outline):
    assert box_around(outline) == (20, 16, 60, 48)


def test_several_polygons_are_one_object():
    assert box_around([[0, 0, 5, 0, 5, 5], [30, 20, 40, 20, 40, 30]]) == (0, 0, 40, 30)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_masks_as_runs_and_as_compressed_text(height, width, data):
    """The reference is the official implementation's own encoding."""
    masks = pytest.importorskip("faster_coco_eval.core.mask")
    values = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(values, dtype=np.uint8).reshape(height, width)
    rows, columns = np.nonzero(mask)
    box = None
    if len(rows):
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    text = masks.encode(np.asfortranarray(mask))["counts"]
    text = text.decode() if isinstance(text, bytes) else text
    assert box_around({"size": [height, width], "counts": text}) == box
    flat = mask.flatten(order="F")
    changes = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    runs = [0] * int(flat[0]) + [int(size) for size in np.diff(changes)]
    assert box_around({"size": [height, width], "counts": runs}) == box


@pytest.mark.parametrize(
    "outline",
    [
        None, [], {}, [[]], [None], 5, "x", [[1, 2, 3, 4]], [1, 2, 3, 4, 5, 6, 7], [[1, 2, math.nan, 4, 5, 6]],
        [[1, 1, 1, 1, 1, 1]], {"size": [2, 2]}, {"size": [2, 2], "counts": [9]}, {"size": [2], "counts": [4]},
        {"size": [2, 2], "counts": [-4, 8]}, {"size": [2**40, 2**40], "counts": [1]},
        {"size": [2, 2], "counts": "\ud800"},
        {"size": [2, 2], "counts": "o" * 1000}, {"size": [2, 2], "counts": [None]}, {"size": None, "counts": ""},
        {"size": [2, 2], "counts": [4]}, {"size": [0, 2], "counts": []},
    ],
)  # fmt: skip
def test_what_is_no_outline(outline):
    assert box_around(outline) is None
