"""The drawn data set: exact labels, and the same files for the same seed."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from PIL import Image

from flexdetr.data import scene_shapes, scene_textures, scenes
from flexdetr.data.detect import read
from flexdetr.data.images import read_image


def drawn(number: int, size=(128, 160)) -> scenes.Scene:
    return scenes.draw_scene(np.random.default_rng([11, number]), size)


def test_scene_is_an_image_with_boxes_inside_it():
    counts = []
    for number in range(30):
        scene = drawn(number)
        assert scene.image.shape == (128, 160, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes_xyxy.dtype == np.float32
        assert scene.labels.dtype == np.int64
        x0, y0, x1, y1 = scene.boxes_xyxy.T
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        assert (x1 <= 160).all()
        assert (y1 <= 128).all()
        assert (x1 - x0 >= 3).all()
        assert (y1 - y0 >= 3).all()
        assert (scene.areas <= (x1 - x0) * (y1 - y0)).all()
        assert (scene.areas >= 60).all()
        counts.append(len(scene.labels))
    assert 3 <= np.mean(counts) <= 9


def test_every_class_and_empty_scenes_occur():
    labels = [drawn(number, (96, 96)).labels for number in range(80)]
    assert set(np.concatenate(labels).tolist()) == set(range(len(scenes.CLASSES)))
    assert any(len(one) == 0 for one in labels)


def test_boxes_are_those_of_the_visible_pixels():
    size = (160, 160)
    for seed in range(10):
        placed = scenes._place_objects(
            np.random.default_rng(seed), size, (1.0, 0.0), scenes.LENGTHS, scenes.OBJECTS
        )
        owner = np.full(
            (320 + 160, 320 + 160), -1
        )  # with a wide border, so that nothing has to be clipped here
        for number, one in reversed(list(enumerate(placed))):
            side = len(one.sprite.alpha)
            part = owner[160 + one.top : 160 + one.top + side, 160 + one.left : 160 + one.left + side]
            part[one.sprite.alpha > 0.5] = number
        owner = owner[160:320, 160:320]
        for number, one in enumerate(placed):
            rows, columns = np.nonzero(owner == number)
            assert one.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert one.area == len(rows)
            assert one.area >= scenes.MIN_VISIBLE * np.count_nonzero(one.sprite.alpha > 0.5)


def test_objects_overlap_in_many_scenes():
    overlapping = 0
    for number in range(30):
        x0, y0, x1, y1 = drawn(number).boxes_xyxy.T[:, :, None]
        across = np.minimum(x1, x1.T) - np.maximum(x0, x0.T)
        down = np.minimum(y1, y1.T) - np.maximum(y0, y0.T)
        overlapping += bool(np.triu((across > 2) & (down > 2), 1).any())
    assert overlapping >= 10


def test_files_follow_from_the_seed(tmp_path):
    def files(root):
        return {
            path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }

    counts = {"train": 2, "val": 1, "test": 1, "size": (96, 96)}
    first = files(scenes.draw_scenes(tmp_path / "a", **counts))
    assert files(scenes.draw_scenes(tmp_path / "b", **counts)) == first
    other = files(scenes.draw_scenes(tmp_path / "c", **counts, seed=1))
    assert other.keys() == first.keys()
    assert all(other[name] != first[name] for name in first)
    more = files(scenes.draw_scenes(tmp_path / "d", **{**counts, "train": 3}))
    assert all(more[name] == first[name] for name in first if name.name != "instances_train.json")


def test_splits_show_different_scenes(tmp_path):
    root = scenes.draw_scenes(tmp_path, train=1, val=1, test=1, size=(96, 96))
    pictures = [
        np.asarray(Image.open(root / split / "scene_00001.jpg")) for split in ("train", "val", "test")
    ]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


def test_annotation_file(tmp_path):
    root = scenes.draw_scenes(tmp_path, train=4, val=0, test=0, size=(96, 128))
    assert not (root / "annotations" / "instances_val.json").exists()
    document = json.loads((root / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    assert [one["id"] for one in document["categories"]] == [1, 2, 3, 5, 6, 7]
    assert [one["name"] for one in document["categories"]] == list(scenes.CLASSES.names)
    assert document["images"][0] == {"id": 1, "file_name": "scene_00001.jpg", "height": 96, "width": 128}
    assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    expected = scenes.draw_scene(np.random.default_rng([0, zlib.crc32(b"train"), 1]), (96, 128))
    own = [one for one in document["annotations"] if one["image_id"] == 1]
    assert [one["category_id"] for one in own] == [scenes.CLASSES.ids[i] for i in expected.labels]
    assert Image.open(root / "train" / "scene_00004.jpg").size == (128, 96)


def test_the_reader_gives_back_what_was_drawn(tmp_path):
    data = read(scenes.draw_scenes(tmp_path, train=3, val=1, test=2, size=(96, 128)))
    assert data.format == "coco"
    assert data.classes == scenes.CLASSES
    assert not data.defects
    assert {split: len(records) for split, records in data.splits.items()} == {
        "train": 3,
        "val": 1,
        "test": 2,
    }
    expected = scenes.draw_scene(np.random.default_rng([0, zlib.crc32(b"test"), 2]), (96, 128))
    record = data.split("test")[1]
    np.testing.assert_array_equal(record.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(record.labels, expected.labels)
    np.testing.assert_array_equal(record.areas, expected.areas)
    assert np.abs(read_image(record.path).astype(int) - expected.image).mean() < 6  # but for JPEG


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 96 pixels high and wide, got 64 x 200"):
        drawn(0, (64, 200))
    with pytest.raises(ValueError, match="cannot be negative"):
        scenes.draw_scenes(tmp_path, train=-1)


@pytest.mark.parametrize("name", list(scene_shapes.SHAPES))
@pytest.mark.parametrize("radius", [8.0, 60.0])
def test_shapes_fill_their_radius_and_keep_their_colours_at_the_rim(name, radius):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sprite = scene_shapes.render(scene_shapes.SHAPES[name](rng), radius, rng.uniform(0, 6), (0.0, 0.0))
        seen = sprite.alpha > 0.5
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        length = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 1.2 * radius <= length <= 2.7 * radius
        assert sprite.alpha[0].max() == sprite.alpha[:, -1].max() == 0  # nothing is cut off
        rim = (sprite.alpha > 0.2) & (sprite.alpha < 0.8)
        assert sprite.colours[:, rim].max(axis=0).min() > 0.1


@pytest.mark.parametrize("texture", scene_textures.TEXTURES, ids=lambda texture: texture.__name__)
def test_textures_fill_any_size(texture):
    for size in ((96, 96), (97, 203), (200, 101)):
        ground = texture(np.random.default_rng(3), *size)
        assert ground.shape == (3, *size)
        assert ground.dtype == np.float32
        assert np.isfinite(ground).all()
        assert ground.std() > 0.005


def test_many_small_objects_in_a_large_scene():
    scene = scenes.draw_scene(
        np.random.default_rng(3), (640, 640), lengths=(16 / 640, 32 / 640), objects=(20, 25)
    )
    sides = scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2]
    assert 10 <= len(scene.labels) <= 25
    assert sides.max() <= 40
    assert (scene.areas < 32**2).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lengths": (0.5, 0.2)}, r"lengths.*0\.5"),
        ({"lengths": (0.0, 0.2)}, r"lengths.*0\.0"),
        ({"objects": (5, 4)}, "objects.*5"),
        ({"objects": (0, 4)}, "objects.*0"),
    ],
)
def test_an_empty_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        scenes.draw_scene(np.random.default_rng(0), (96, 96), **options)
