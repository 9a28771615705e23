from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexdetr.config import DataConfig
from flexdetr.data.batches import SampleMaker
from flexdetr.data.dataset import Record
from flexdetr.data.images import read_image
from flexdetr.data.record_pixels import read_record
from flexdetr.data.tiled import all_tiles, part, tiled
from flexdetr.runtime.slicing import Slicing, Tile, tiles


def _record(boxes, width=200, height=150, path="a.png", crowd=False):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Record(
        path, 7, width, height, boxes, np.arange(len(boxes)), np.full(len(boxes), crowd, bool), areas
    )


def test_a_tile_holds_what_it_shows_enough_of():
    record = _record([[10, 10, 30, 30], [50, 10, 70, 30], [95, 5, 120, 20]])
    half = part(record, Tile(60, 0, 124, 64), 0.3)
    assert half.labels.tolist() == [1, 2]
    assert half.boxes_xyxy.tolist() == [[0, 10, 10, 30], [35, 5, 60, 20]]
    assert half.areas.tolist() == [200, 375]
    assert (half.width, half.height, half.image_id) == (64, 64, "7@60,0")
    assert part(record, Tile(60, 0, 124, 64), 0.6).labels.tolist() == [2]
    assert part(
        dataclasses.replace(record, iscrowd=np.ones(3, bool)), Tile(60, 0, 124, 64), 0.9
    ).iscrowd.all()


@given(
    st.lists(st.tuples(st.floats(0, 180), st.floats(0, 130), st.floats(1, 60), st.floats(1, 60)), max_size=6),
    st.integers(32, 100),
    st.floats(0, 0.6),
)
def test_every_object_up_to_the_overlap_is_whole_somewhere(corners, side, overlap):
    boxes = [[x, y, min(x + w, 200), min(y + h, 150)] for x, y, w, h in corners]
    record = _record(boxes)
    cut = tiled([record], DataConfig(tiles=side, tile_overlap=overlap, tile_empty=1, tile_whole=False), 0)
    assert len(cut) == len(tiles(150, 200, Slicing(side, overlap)))
    for label, box in enumerate(record.boxes_xyxy):
        if (box[2:] - box[:2] > int(overlap * side)).any():
            continue
        wholes = [
            one.boxes_xyxy[one.labels == label] + np.float32([*one.window[:2], *one.window[:2]])
            for one in cut
            if label in one.labels
        ]
        assert any(np.allclose(found[0], box, atol=1e-3) for found in wholes)


def test_tiles_without_objects_are_kept_by_their_share_and_the_seed():
    records = [_record([[10, 10, 30, 30]])] * 3
    config = DataConfig(tiles=64, tile_empty=0.5, tile_whole=True)
    chosen = tiled(records, config, 0)
    whole = [one for one in chosen if one.window is None]
    empty = [one for one in chosen if not len(one)]
    assert len(whole) == 3
    total = 3 * len(tiles(150, 200, Slicing(64, 0.2)))
    shown = len(chosen) - len(whole) - len(empty)
    assert len(empty) == round(0.5 * (total - shown))
    assert [one.image_id for one in tiled(records, config, 0)] == [one.image_id for one in chosen]
    assert [one.image_id for one in tiled(records, config, 1)] != [one.image_id for one in chosen]
    assert all(len(one) for one in tiled(records, config.model_copy(update={"tile_empty": 0.0}), 0))


def test_small_images_and_runs_without_tiles_stay_as_they_are():
    records = [_record([], width=64, height=50), _record([[1, 1, 9, 9]], width=60)]
    assert tiled(records[:1], DataConfig(tiles=64, tile_empty=0), 0) == (records[0],)
    assert tiled(records, DataConfig(), 0) == tuple(records)
    only_empty = tiled([_record([])], DataConfig(tiles=64, tile_empty=0, tile_whole=False), 0)
    assert len(only_empty) == 12  # nothing else is there to learn from


def test_a_sample_of_a_tile_is_its_part_of_the_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = _record([[70, 20, 90, 40]], path=tmp_path / "a.png")
    tile = part(record, Tile(64, 0, 128, 64), 0.3)
    maker = SampleMaker([tile], DataConfig(flip=0), (64, 64), 0)
    sample = maker.sample(0, 0, "plain", (64, 64), [0])
    assert (sample.image == read_image(tmp_path / "a.png")[0:64, 64:128]).all()
    assert sample.boxes_xyxy[0].tolist() == [6, 20, 26, 40]
    large = SampleMaker([part(record, Tile(0, 0, 128, 128), 0.3)], DataConfig(), (32, 32), 0)
    large.images.keep(0)
    assert large.images.kept.get(0).shape == (48, 48, 3)
    assert large.images.cache_bytes() == pytest.approx(3 * 48 * 48 * 1.25)


def test_an_evaluation_reads_every_tile_in_its_own_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = _record([[10, 10, 30, 30]], path=tmp_path / "a.png")
    cut = all_tiles([record], DataConfig(tiles=64, tile_empty=0.0, tile_whole=False))
    assert len(cut) == len(tiles(150, 200, Slicing(64)))
    for one in cut:
        left, top, right, bottom = one.window
        assert np.array_equal(read_record(one), pixels[top:bottom, left:right])
