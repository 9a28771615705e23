from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.config import DataConfig
from flexdetr.data.mosaic import mixup, mosaic
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
