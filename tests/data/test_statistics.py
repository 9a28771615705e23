"""Counts of a data set, and images that look alike whatever their size and compression."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.data.dataset import Dataset, Record
from flexdetr.data.scenes import draw_scene
from flexdetr.data.statistics import ALIKE, picture_hash, statistics


def save(path, seed, size=None, **options):
    image = Image.fromarray(draw_scene(np.random.default_rng(seed), (96, 128)).image)
    (image if size is None else image.resize(size)).save(path, **options)
    return path


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Three scenes to train on, and one of them again, smaller and compressed, to test on."""

    def record(name, number, boxes, labels, crowd):
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        areas = np.ones(len(labels), np.float32)
        return Record(
            tmp_path / name, number, 128, 96, xyxy, np.array(labels, np.int64), np.array(crowd, bool), areas
        )

    save(tmp_path / "a.png", 0)
    save(tmp_path / "b.png", 1)
    save(tmp_path / "c.png", 2)
    save(tmp_path / "again.jpg", 0, (100, 75), quality=60)
    Image.new("RGB", (9, 9), "white").save(tmp_path / "flat.png")
    Image.new("RGB", (9, 9), "grey").save(tmp_path / "flat too.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    train = (
        record(
            "a.png", 1, [[0, 0, 16, 16], [0, 0, 50, 98], [0, 0, 128, 96]], [0, 1, 2], [False, False, True]
        ),
        record("b.png", 2, [[0, 0, 32, 8]], [0], [False]),
        record("c.png", 3, [], [], []),
        record("flat.png", 4, [], [], []),
        record("flat too.png", 5, [], [], []),
    )
    test = (record("again.jpg", 1, [[0, 0, 64, 48]], [1], [False]), record("broken.png", 2, [], [], []))
    return Dataset(
        tmp_path, "coco", Classes(("cat", "dog", "owl"), (1, 5, 9)), {"train": train, "test": test}
    )


def test_numbers(dataset):
    seen = []
    found = statistics(dataset, lambda *count: seen.append(count))
    assert seen[-1] == (7, 7)
    cat, dog, owl = found.classes
    assert (cat.id, cat.objects, cat.images, cat.crowds) == (
        1,
        {"train": 2, "test": 0},
        {"train": 2, "test": 0},
        0,
    )
    assert (dog.objects, owl.objects, owl.crowds) == ({"train": 1, "test": 1}, {"train": 0, "test": 0}, 1)
    assert cat.side == pytest.approx(16 / np.sqrt(96 * 128))
    assert np.isnan(owl.side)
    assert found.sides.tolist() == pytest.approx([16, 70, 16, np.sqrt(64 * 48)])
    assert found.ratios.tolist() == pytest.approx([1, 50 / 98, 4, 64 / 48])
    assert found.counts.tolist() == [2, 1, 0, 0, 0, 1, 0]
    assert found.together.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    document = found.to_json()
    assert document["splits"]["train"] == {"images": 5, "objects": 3, "without_objects": 3}
    assert document["objects_by_size"] == {"small": 2, "medium": 2, "large": 0}


def test_the_same_picture_in_two_splits_is_found(dataset):
    found = statistics(dataset)
    (pair,) = found.twins  # the flat pictures are none
    assert found.leaks == (pair,)
    assert (pair.first[0], pair.first[1].name) == ("train", "a.png")
    assert (pair.second[0], pair.second[1].name) == ("test", "again.jpg")
    assert "broken.png" in found.unread[0]
    assert found.to_json()["twins"][0]["second"][0] == "test"


def test_hashes_of_different_scenes_differ():
    scenes = [draw_scene(np.random.default_rng(seed), (96, 96)).image for seed in range(30)]
    hashes = [picture_hash(image) for image in scenes]
    near = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(near) > ALIKE
    darker = [picture_hash((image * 0.8).astype(np.uint8)) for image in scenes]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, darker, strict=True)) <= ALIKE


def test_a_data_set_without_images():
    found = statistics(Dataset("nowhere", "coco", Classes.of(["cat"]), {}))
    assert found.to_json()["twins"] == []
    assert not len(found.sides)
