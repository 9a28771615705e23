"""Labels to correct, as the tools' own readers take them; a reader that is not installed is skipped by name."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.classifier import Classifier
from flexdetr.cli import main
from flexdetr.cli.pre_annotations import FORMS, remove_former
from flexdetr.data.detect import read

CLASSES = Classes(("cat & dog", "wei\u00df"), (3, 7))
LINES = [
    {
        "file": "photos/a.png",
        "picture": "out/a.png",
        "size": [80, 100],
        "objects": [
            {"name": "wei\u00df", "label": 7, "score": 0.75, "box_xyxy": [10.0, 20.0, 40.0, 60.0]},
            {"name": "cat & dog", "label": 3, "score": 0.5, "box_xyxy": [0.0, 0.0, 100.0, 80.0]},
        ],
    },
    {"file": "photos/broken.png", "error": "is no image"},
    {"file": "other/a.png", "picture": "out/a-2.png", "size": [80, 100], "objects": []},
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for write in FORMS.values():
        assert write(tmp_path, LINES, CLASSES).exists()
    return tmp_path


def test_yolo_labels_are_read_back(written: Path) -> None:
    """By this package's own reader, with the pictures put beside them."""
    with_pictures(written)
    data = written / "yolo" / "data.yaml"
    data.write_text("train: images\n" + data.read_text(encoding="utf-8"), encoding="utf-8")
    dataset = read(written / "yolo", val_fraction=None)
    assert dataset.classes.names == CLASSES.names
    records = {record.path.stem: record for record in dataset.splits["train"]}
    assert records["a"].labels.tolist() == [1, 0]
    assert records["a"].boxes_xyxy == pytest.approx(np.array([[10, 20, 40, 60], [0, 0, 100, 80]]), abs=1e-3)
    assert len(records["a-2"]) == 0
    assert not dataset.defects


def test_what_a_former_call_left_goes_and_nothing_else(written: Path) -> None:
    (written / "yolo" / "labels" / "mine.txt").write_text("", encoding="utf-8")
    remove_former(written, LINES)
    assert [path.name for path in written.rglob("*") if path.is_file()] == ["mine.txt"]


def test_pictures_without_a_copy_have_names_of_their_own(tmp_path: Path) -> None:
    lines = [
        {**LINES[0], "picture": None},
        {**LINES[2], "picture": None},
        {**LINES[0], "file": "x.mp4#000003", "picture": None},
        {**LINES[0], "file": "films/y.mp4#000004", "picture": "out/y.mp4"},
        {**LINES[0], "file": "http://host/z.jpg?size=1/2", "picture": None},
    ]
    FORMS["yolo"](tmp_path, lines, CLASSES)
    names = {path.stem for path in (tmp_path / "yolo" / "labels").iterdir()}
    assert names == {"a", "a-2", "x-000003", "y-000004", "z"}


def test_label_studio_sdk_takes_the_tasks(written: Path) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    tasks = json.loads((written / "label-studio.json").read_text(encoding="utf-8"))
    config = (
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
        '<Label value="cat &amp; dog"/><Label value="wei\u00df"/></RectangleLabels></View>'
    )
    interface = sdk.LabelInterface(config)
    assert len(tasks) == 2
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []
    wrong = {**tasks[0]["predictions"][0]}
    wrong["result"] = [{**wrong["result"][0], "to_name": "nothing"}]
    assert not interface.validate_prediction(wrong)


def test_datumaro_reads_the_cvat_document(written: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    folder = written / "cvat"
    for name in ("photos/a.png", "other/a.png"):
        place = folder / "images" / name
        place.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(place)
    (written / "cvat.xml").rename(folder / "annotations.xml")
    found = datumaro.Dataset.import_from(str(folder), "cvat")
    boxes = [sorted(tuple(box.points) for box in item.annotations) for item in found if item.annotations]
    assert boxes == [[(0, 0, 100, 80), (10, 20, 40, 60)]]
    assert len(found) == 2


def with_pictures(written: Path) -> Path:
    """The YOLO folder with the pictures that its labels belong to."""
    folder = written / "yolo"
    for name in ("a", "a-2"):
        place = folder / "images" / f"{name}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(place)
    return folder


def test_datumaro_reads_the_yolo_folder(written: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    found = datumaro.Dataset.import_from(str(with_pictures(written)), "yolo")
    names = [one.name for one in found.categories()[datumaro.AnnotationType.label].items]
    boxes = {item.id: [(names[box.label], tuple(box.points)) for box in item.annotations] for item in found}
    assert boxes == {
        "a": [("wei\u00df", (10, 20, 40, 60)), ("cat & dog", (0, 0, 100, 80))],
        "a-2": [],
    }


def test_label_studios_own_converter_reads_the_yolo_folder(written: Path, tmp_path: Path) -> None:
    converter = pytest.importorskip(
        "label_studio_sdk.converter.imports.yolo", reason="label-studio-sdk is not installed"
    )
    converter.convert_yolo_to_ls(str(with_pictures(written)), str(tmp_path / "tasks.json"), image_ext=".png")
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    results = [one["annotations"][0]["result"] for one in tasks]
    (filled,) = [result for result in results if result]
    assert len(results) == 2
    assert [one["value"]["rectanglelabels"] for one in filled] == [["wei\u00df"], ["cat & dog"]]
    sides = [[one["value"][side] for side in ("x", "y", "width", "height")] for one in filled]
    assert sides == [pytest.approx([10, 25, 30, 50]), pytest.approx([0, 0, 100, 100])]


def test_datumaro_reads_the_coco_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures that were named by their place in its folder: it refuses paths that lead out of it."""
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    detector = Detector("flexdetr_pico", classes=CLASSES, image_size=64)
    pictures = tmp_path / "data" / "images" / "default"
    pictures.mkdir(parents=True)
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(pictures / "one.png")
    file, out = detector.save(tmp_path / "a.safetensors"), tmp_path / "out"
    monkeypatch.chdir(pictures)
    assert main(["predict", str(file), "one.png", "--out", str(out), "--threshold", "0"]) == 0
    document = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    annotations = tmp_path / "data" / "annotations"
    annotations.mkdir()
    (out / "detections.json").rename(annotations / "instances_default.json")
    (item,) = datumaro.Dataset.import_from(str(annotations.parent), "coco")
    assert len(item.annotations) == len(document["annotations"]) > 0
    read_back = [
        (one.attributes["score"], CLASSES.ids[one.label], *one.get_bbox()) for one in item.annotations
    ]
    written = [(row["score"], row["category_id"], *row["bbox"]) for row in document["annotations"]]
    assert np.array(sorted(read_back)) == pytest.approx(np.array(sorted(written)), abs=1e-6)


def test_the_cvat_document_names_pictures(written: Path) -> None:
    document = ET.parse(written / "cvat.xml")
    assert [image.get("name") for image in document.iter("image")] == ["photos/a.png", "other/a.png"]


def test_predict_writes_them_and_a_second_call_removes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Detector("flexdetr_pico", classes=["a", "b"], image_size=64)
    file, out = str(detector.save(tmp_path / "a.safetensors")), tmp_path / "out"
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "one.png")
    command = ["predict", file, str(tmp_path / "one.png"), "--out", str(out), "--threshold", "0"]
    assert main([*command, "--format", "yolo", "--format", "label-studio", "--format", "cvat"]) == 0
    label = out / "yolo" / "labels" / "one.txt"
    (task,) = json.loads((out / "label-studio.json").read_text(encoding="utf-8"))
    assert len(label.read_text().splitlines()) == len(task["predictions"][0]["result"]) > 0
    assert task["data"]["image"] == str(tmp_path / "one.png")
    assert main(command) == 0
    assert not [place for place in (label, out / "label-studio.json", out / "cvat.xml") if place.exists()]
    capsys.readouterr()
    assert main([*command, "--format", "yol"]) == 2
    assert "did you mean 'yolo'" in capsys.readouterr().err
    assert main([*command, "--format", "coco", "--format", "csv", "--format", "jsonl"]) == 0
    assert all((out / f"detections.{form}").is_file() for form in ("json", "csv", "jsonl"))


def test_a_classifier_has_no_labels_to_correct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = Classifier("hgnetv2_atto_cls", classes=["a", "b"], image_size=64)
    file, out = str(classifier.save(tmp_path / "a.safetensors")), tmp_path / "out"
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "one.png")
    command = ["predict", file, str(tmp_path / "one.png"), "--out", str(out)]
    assert main([*command, "--format", "yolo", "--explain"]) == 2
    assert "--format yolo and --explain: only of detectors" in capsys.readouterr().err
    assert main([*command, "--format", "csv"]) == 0
    assert (out / "classes.csv").is_file()
