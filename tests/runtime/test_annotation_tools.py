"""What annotation tools import: the names, units and places that their formats define."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from flexdetr.runtime import annotation_tools

OBJECTS = [
    {"name": "cat & dog", "label": 7, "score": 0.75, "box_xyxy": [10.0, 20.0, 40.0, 60.0]},
    {"name": "\u732b\x07", "label": 3, "score": 0.5, "box_xyxy": [0.0, 0.0, 100.0, 80.0], "tracker_id": 4},
]
SIZE = (80, 100)


def test_label_studio_takes_percent_of_the_picture():
    task = annotation_tools.label_studio(OBJECTS, "https://host/a.jpg", SIZE, "mine")
    json.dumps(task)
    assert task["data"] == {"image": "https://host/a.jpg"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "mine"
    assert prediction["score"] == 0.5
    first, second = prediction["result"]
    assert first["type"] == "rectanglelabels"
    assert (first["from_name"], first["to_name"]) == ("label", "image")
    assert (first["original_width"], first["original_height"]) == (100, 80)
    assert first["value"] == {
        "x": 10.0,
        "y": 25.0,
        "width": 30.0,
        "height": 50.0,
        "rotation": 0,
        "rectanglelabels": ["cat & dog"],
    }
    assert first["id"] != second["id"]
    assert annotation_tools.label_studio([], "a", SIZE)["predictions"][0]["result"] == []


def test_cvat_document_is_well_formed_whatever_the_names():
    document = ET.fromstring(
        annotation_tools.cvat([("a<b>.jpg", SIZE, OBJECTS), ("empty.jpg", (5, 6), [])]).encode()
    )
    assert document.tag == "annotations"
    assert document.findtext("version") == "1.1"
    assert document.findtext("meta/task/size") == "2"
    assert [one.text for one in document.findall("meta/task/labels/label/name")] == [
        "cat & dog",
        "\u732b\ufffd",
    ]
    first, empty = document.findall("image")
    assert first.attrib == {"id": "0", "name": "a<b>.jpg", "width": "100", "height": "80"}
    assert [box.get("label") for box in first] == ["cat & dog", "\u732b\ufffd"]
    assert [first[0].get(side) for side in ("xtl", "ytl", "xbr", "ybr")] == [
        "10.00",
        "20.00",
        "40.00",
        "60.00",
    ]
    assert len(empty) == 0


def test_fiftyone_takes_fractions():
    written = annotation_tools.fiftyone(OBJECTS, SIZE)
    assert written["_cls"] == "Detections"
    first, second = written["detections"]
    assert first["bounding_box"] == pytest.approx([0.1, 0.25, 0.3, 0.5])
    assert "index" not in first
    assert second["index"] == 4
