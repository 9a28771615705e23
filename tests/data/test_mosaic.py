from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.config import DataConfig
from flexdetr.data.mosaic import copy_blend, mixup, mosaic
from flexdetr.data.transforms import Sample

QUIET = DataConfig(photometric=0, flip=0)


def _tile(value, width, height, boxes=((0, 0, 1, 1),)):
    """An image of one grey level; boxes are fractions."""
    scale = np.array([width, height] * 2)
    corners = (np.array(boxes, dtype=np.float32).reshape(-1, 4) * scale).astype(np.float32)
    return Sample(np.full((height, width, 3), value, dtype=np.uint8), corners, np.full(len(corners), value))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
def test_four_tiles_fill_the_canvas_around_a_centre(seed, rows, columns):
    size = (32 * rows, 32 * columns)
    tiles = [_tile(value, 30 + 10 * value, 70 - 10 * value) for value in (1, 2, 3, 4)]
    result = mosaic(tiles, size, np.random.default_rng(seed), QUIET)
    assert result.image.shape == (*size, 3)
    assert set(np.unique(result.image)) == {1, 2, 3, 4}
    assert sorted(result.labels) == [1, 2, 3, 4]
    for box, label in zip(result.boxes_xyxy.astype(int), result.labels, strict=True):
        x0, y0, x1, y1 = box  # each object covers its whole tile
        assert (result.image[y0:y1, x0:x1] == label).all()
        assert (result.image == label).all(axis=2).sum() == (x1 - x0) * (y1 - y0)
        assert 0.29 <= (x1 - x0) / size[1] <= 0.71 + 1 / size[1]


@given(st.integers(0, 2**32))
def test_cut_objects_are_clipped_and_slivers_dropped(seed):
    grid = [(x / 8, y / 8, (x + 1) / 8, (y + 1) / 8) for x in range(8) for y in range(8)]
    tiles = [_tile(value, 160, 160, grid) for value in (1, 2, 3, 4)]
    result = mosaic(tiles, (128, 128), np.random.default_rng(seed), QUIET)
    sides = result.boxes_xyxy[:, 2:] - result.boxes_xyxy[:, :2]
    assert (sides >= 2 - 1e-4).all()
    assert (result.boxes_xyxy >= 0).all()
    assert (result.boxes_xyxy <= 128).all()
    for box, label in zip(np.round(result.boxes_xyxy).astype(int), result.labels, strict=True):
        assert (result.image[box[1] : box[3], box[0] : box[2]] == label).all()


def test_tiles_without_objects():
    tiles = [_tile(value, 50, 50, ()) for value in (1, 2, 3, 4)]
    result = mosaic(tiles, (64, 64), np.random.default_rng(0), DataConfig())
    assert result.boxes_xyxy.shape == (0, 4)
    assert result.labels.shape == (0,)


def test_mixup_holds_both():
    first, second = _tile(100, 32, 32), _tile(200, 32, 32, ((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)))
    result = mixup(first, second, np.random.default_rng(0))
    assert result.labels.tolist() == [100, 200, 200]
    assert result.boxes_xyxy.shape == (3, 4)
    level = np.unique(result.image)
    assert len(level) == 1
    assert level[0] == pytest.approx(150, abs=6)


@given(st.integers(0, 2**32), st.integers(0, 6))
def test_copy_blend_brings_up_to_three_objects_with_their_pixels(seed, objects):
    rng = np.random.default_rng(seed)
    sample = _tile(100, 64, 48, ((0, 0, 0.5, 0.5),))
    grid = [(x / 4, 0.25, (x + 1) / 4, 0.75) for x in range(4)] + [(0, 0, 0.2, 0.2), (0.5, 0, 0.52, 0.02)]
    result = copy_blend(sample, _tile(200, 64, 48, grid[:objects]), rng)
    # The last two of the grid have fewer than 100 pixels.
    assert len(result.boxes_xyxy) == len(result.labels) == 1 + min(3, objects, 4)
    np.testing.assert_array_equal(result.boxes_xyxy[0], sample.boxes_xyxy[0])
    for x0, y0, x1, y1 in result.boxes_xyxy[1:].astype(int):
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 48
        assert (result.image[y0:y1, x0:x1] >= 140).all()
    assert (sample.image == 100).all()  # the source of the copy is left alone


def test_copy_blend_of_an_image_without_objects_changes_nothing():
    sample = _tile(100, 32, 32)
    result = copy_blend(sample, _tile(200, 32, 32, ()), np.random.default_rng(0))
    np.testing.assert_array_equal(result.image, sample.image)
    np.testing.assert_array_equal(result.boxes_xyxy, sample.boxes_xyxy)
