"""Detections: aligned, immutable, indexable, and the data set's own ids in everything they are written as."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

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


def test_supervision_gets_the_same_objects(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", type("supervision", (), {"Detections": dict}))
    given = found.to_supervision()
    assert (given["xyxy"] == found.boxes_xyxy).all()
    assert given["class_id"].tolist() == [7, 3, 7]
    assert given["data"]["class_name"].tolist() == found.names
    given["confidence"][0] = 0  # a copy: supervision writes into its arrays
    assert found.scores[0] > 0
