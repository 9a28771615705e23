"""Detections: aligned, immutable, indexable, and the data set's own ids in everything they are written as."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.runtime.detections import CSV_HEADER, Detections


@pytest.fixture
def found() -> Detections:
    """Three objects of two classes whose ids have a hole."""
    return Detections(
        [[10, 20, 40, 60], [0, 0, 5, 5], [1.5, 2.5, 3.5, 4.5]],
        [0.9, 0.6, 0.3],
        [7, 3, 7],
        ["cat", "dog", "cat"],
        [1, 0, 1],
        image_id=42,
        size=(80, 100),
    )


def test_fields_have_the_promised_types(found):
    assert found.boxes_xyxy.dtype == np.float32
    assert found.boxes_xyxy.shape == (3, 4)
    assert found.scores.dtype == np.float32
    assert found.labels.dtype == found.indices.dtype == np.int64
    assert found.names == ["cat", "dog", "cat"]
    assert len(found) == 3


def test_an_image_without_objects():
    nothing = Detections.empty(image_id="a", size=(3, 4))
    assert len(nothing) == 0
    assert nothing.boxes_xyxy.shape == (0, 4)
    assert nothing.to_json() == nothing.to_coco() == nothing.to_csv_rows() == []
    assert len(nothing[nothing.scores > 0.5]) == 0
    assert len(Detections([], [], [], [], [])) == 0


def test_indexing(found):
    assert found[0].names == found[-3].names == ["cat"]
    assert found[0].boxes_xyxy.shape == (1, 4)
    assert found[1:].labels.tolist() == [3, 7]
    assert found[found.labels == 7].scores.tolist() == pytest.approx([0.9, 0.3])
    assert found[[2, 0]].names == ["cat", "cat"]
    assert found[[True, False, True]].indices.tolist() == [1, 1]
    assert found[np.int64(1)].image_id == 42
    assert found[::2].size == (80, 100)
    assert [one.names for one in found] == [["cat"], ["dog"], ["cat"]]
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(IndexError):
        found[np.array([True, False])]


def test_nothing_can_be_written_to(found):
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0] = 1
    with pytest.raises(AttributeError):
        found.scores = np.zeros(3)
    scores = np.array([0.5], np.float32)
    kept = Detections([[0, 0, 1, 1]], scores, [0], ["x"], [0])
    scores[0] = 0
    assert kept.scores.tolist() == [0.5]


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"boxes_xyxy 1, scores 2"):
        Detections([[0, 0, 1, 1]], [0.5, 0.4], [0], ["x"], [0])
    with pytest.raises(ValueError, match=r"shape \(1, 3\), expected \(N, 4\)"):
        Detections([[0, 0, 1]], [0.5], [0], ["x"], [0])


def test_coco_results_carry_the_data_sets_ids(found):
    rows = found.to_coco()
    assert rows[0] == {
        "image_id": 42,
        "category_id": 7,
        "bbox": [10, 20, 30, 40],
        "score": pytest.approx(0.9),
    }
    assert [row["category_id"] for row in rows] == [7, 3, 7]
    assert found.to_coco("photo")[0]["image_id"] == "photo"
    assert found.to_coco(0)[0]["image_id"] == 0
    json.dumps(rows)
    with pytest.raises(ValueError, match="image id"):
        Detections([[0, 0, 1, 1]], [0.5], [0], ["x"], [0]).to_coco()


def test_json_and_csv(found):
    rows = found.to_json()
    assert rows[2] == {"name": "cat", "label": 7, "score": 0.3, "box_xyxy": [1.5, 2.5, 3.5, 4.5]}
    json.dumps(rows)
    line = found.to_csv_rows("a.jpg")[0]
    assert dict(zip(CSV_HEADER, line, strict=True)) == {
        "image": "a.jpg",
        "name": "cat",
        "label": 7,
        "score": 0.9,
        "x1": 10,
        "y1": 20,
        "x2": 40,
        "y2": 60,
    }
    assert found.to_csv_rows()[0][0] == 42


def test_supervision_is_asked_for_by_name(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"flexdetr\[supervision\]"):
        found.to_supervision()


def test_supervision_gets_the_same_objects_and_gives_them_back(found):
    pytest.importorskip(
        "supervision", reason="supervision is not installed: pip install 'flexdetr[supervision]'"
    )
    tracked = replace(found, tracker_id=[4, -1, 9], data={"speed": [1.5, 2.5, 3.5]})
    given = tracked.to_supervision()
    assert given.class_id.tolist() == [7, 3, 7]
    back = Detections.from_supervision(given, image_id=42, size=(80, 100))
    assert_same(back, tracked)
    given.confidence[0] = 0  # a copy: supervision writes into its arrays
    assert found.scores[0] > 0
    assert_same(Detections.from_supervision(Detections.empty().to_supervision()), Detections.empty())


def test_from_supervision_takes_names_and_indices_from_classes():
    plain = SimpleNamespace(
        xyxy=np.array([[0, 0, 2, 2]]), confidence=None, class_id=[7], tracker_id=None, mask=None, data={}
    )
    taken = Detections.from_supervision(plain, classes=Classes(("dog", "cat"), (3, 7)))
    assert (taken.names, taken.indices.tolist(), taken.scores.tolist()) == (["cat"], [1], [1.0])
    with pytest.raises(ValueError, match=r"from_supervision\(classes=...\)"):
        Detections.from_supervision(plain)
    with pytest.raises(ValueError, match="no class has the id 7"):
        Detections.from_supervision(plain, classes=Classes.of(["dog"]))
    plain.class_id = None
    with pytest.raises(ValueError, match="class_id"):
        Detections.from_supervision(plain)


def assert_same(one, other):
    assert (one.boxes_xyxy == other.boxes_xyxy).all()
    assert (one.scores == other.scores).all()
    assert one.labels.tolist() == other.labels.tolist()
    assert one.names == other.names
    assert one.indices.tolist() == other.indices.tolist()
    assert (one.image_id, one.size) == (other.image_id, other.size)
    assert (one.tracker_id is None) == (other.tracker_id is None)
    assert one.tracker_id is None or one.tracker_id.tolist() == other.tracker_id.tolist()
    assert (one.masks is None) == (other.masks is None)
    assert one.masks is None or (one.masks == other.masks).all()
    assert {name: values.tolist() for name, values in one.data.items()} == {
        name: values.tolist() for name, values in other.data.items()
    }


def test_optional_fields_are_aligned_and_indexed(found):
    masks = np.zeros((3, 80, 100), bool)
    masks[2, 1, 1] = True
    full = replace(found, tracker_id=[1, 2, 3], masks=masks, data={"speed": [1.0, 2.0, 3.0]})
    last = full[2]
    assert last.tracker_id.tolist() == [3]
    assert last.masks.shape == (1, 80, 100)
    assert last.masks[0, 1, 1]
    assert last.data["speed"].tolist() == [3.0]
    assert full.to_json()[0]["tracker_id"] == 1
    assert "tracker_id" not in found.to_json()[0]
    with pytest.raises(ValueError, match="tracker_id 2"):
        replace(found, tracker_id=[1, 2])
    with pytest.raises(ValueError, match=r"data\['speed'\] 1"):
        replace(found, data={"speed": [1.0]})
    with pytest.raises(ValueError, match="one entry per object, got 3"):
        replace(found, data={"speed": 3})
    with pytest.raises(ValueError, match=r"shape \(3, 2, 2\), expected \(N, 80, 100\)"):
        replace(found, masks=np.zeros((3, 2, 2), bool))
    with pytest.raises(TypeError):
        full.data["speed"] = np.zeros(3)


def test_the_repr_says_what_was_found(found):
    assert repr(found) == "<Detections: 3 objects in 42 of 100x80: 2 cat, 1 dog; best score 0.90>"
    assert repr(found[:1]) == "<Detections: 1 object in 42 of 100x80: 1 cat; best score 0.90>"
    assert repr(Detections.empty()) == "<Detections: 0 objects>"
    many = Detections(np.zeros((9, 4)), np.zeros(9), range(9), [f"c{i}" for i in range(9)], range(9))
    assert "4 more classes" in repr(many)


def test_classes_are_chosen_by_name_or_id(found):
    assert found.only("cat").scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.only(3).names == ["dog"]
    assert found.only("cat", 3).names == found.names
    assert found.without("cat").names == ["dog"]
    assert len(found.only("bird")) == len(Detections.empty().only("cat")) == 0


def test_concatenation(found):
    joined = Detections.concatenate([found[:1], found[1:]])
    assert_same(joined, found)
    assert Detections.concatenate([found, replace(found, image_id=43)]).image_id is None
    assert Detections.concatenate([]).image_id is None
    assert Detections.concatenate([Detections.empty(image_id="a", size=(3, 4))]).size == (3, 4)
    tracked = replace(found, tracker_id=[1, 2, 3])
    both = Detections.concatenate([tracked, Detections.empty()])
    assert both.tracker_id.tolist() == [1, 2, 3]
    assert Detections.concatenate([found[::-1]]).best_first().scores.tolist() == found.scores.tolist()
    with pytest.raises(ValueError, match="only some of the Detections have tracker_id"):
        Detections.concatenate([tracked, found])


@given(st.lists(st.integers(0, 4), max_size=5))
def test_parts_put_together_are_the_whole(cuts):
    count = sum(cuts)
    whole = Detections(
        np.arange(count * 4).reshape(-1, 4),
        np.linspace(1, 0, count),
        np.arange(count) % 3,
        [f"c{i % 3}" for i in range(count)],
        np.arange(count) % 3,
        data={"number": np.arange(count)},
    )
    ends = np.cumsum([0, *cuts])
    parts = [whole[start:end] for start, end in pairwise(ends)]
    joined = Detections.concatenate(parts)
    assert joined.boxes_xyxy.tolist() == whole.boxes_xyxy.tolist()
    assert joined.names == whole.names
    assert [*joined.data.get("number", [])] == [*range(count)]


def test_crops_are_copies_inside_the_picture(found):
    image = np.arange(80 * 100 * 3, dtype=np.uint8).reshape(80, 100, 3)
    first, second, third = found.crops(image)
    assert (first == image[20:60, 10:40]).all()
    assert (second == image[0:5, 0:5]).all()
    assert third.shape == (3, 3, 3)  # every pixel that the box touches
    first[:] = 0
    assert image[20:60, 10:40].any()
    assert found.crops(image, margin=0.5)[0].shape == (80, 55, 3)
    outside = Detections([[200, 200, 300, 300]], [1], [0], ["x"], [0])
    assert outside.crops(Image.fromarray(image))[0].tolist() == [[image[79, 99].tolist()]]


def test_plot_draws_boxes_and_tracker_ids(found):
    image = np.zeros((80, 100, 3), np.uint8)
    plain = found.plot(image)
    assert plain.size == (100, 80)
    assert np.asarray(plain).any()
    assert not image.any()
    tracked = replace(found, tracker_id=[5, 6, -1]).plot(Image.fromarray(image))
    assert np.asarray(tracked).tobytes() != np.asarray(plain).tobytes()


def test_save_writes_what_the_suffix_names(found, tmp_path):
    image = np.zeros((80, 100, 3), np.uint8)
    assert json.loads(found.save(tmp_path / "a.json").read_text(encoding="utf-8")) == found.to_json()
    with found.save(tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.reader(file)]
    assert tuple(rows[0]) == CSV_HEADER
    assert len(rows) == 4
    lines = found.save(tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "7 0.250000 0.500000 0.300000 0.500000"
    with Image.open(found.save(tmp_path / "a.png", image)) as picture:
        assert picture.size == (100, 80)
    with pytest.raises(ValueError, match=r"save\(path, image\)"):
        found.save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"\.json, \.csv"):
        found.save(tmp_path / "b.xml")
    with pytest.raises(ValueError, match="size"):
        replace(found, size=None).save(tmp_path / "b.txt")


def test_pandas(found, monkeypatch):
    table = pytest.importorskip("pandas") and replace(found, data={"speed": [1, 2, 3]}).to_pandas()
    assert [*table.columns] == [*CSV_HEADER, "speed"]
    assert table["name"].tolist() == found.names
    assert table["x2"].tolist() == [40, 5, 3.5]
    assert table["image"].tolist() == [42, 42, 42]
    assert [*Detections.empty().to_dataframe().columns] == [*CSV_HEADER]
    assert replace(found, tracker_id=[1, 2, 3]).to_pandas()["tracker_id"].tolist() == [1, 2, 3]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"flexdetr\[pandas\]"):
        found.to_pandas()


def test_annotation_tools_need_size_and_name(found):
    assert found.to_label_studio("a.jpg")["data"] == {"image": "a.jpg"}
    assert found.to_label_studio()["data"] == {"image": "42"}
    assert 'name="42"' in found.to_cvat()
    assert len(found.to_fiftyone()["detections"]) == 3
    unknown = replace(found, image_id=None, size=None)
    for write in (unknown.to_label_studio, unknown.to_cvat):
        with pytest.raises(ValueError, match="name or address"):
            write()
        with pytest.raises(ValueError, match="size"):
            write("a.jpg")
