"""The COCO numbers: equal to pycocotools' on its hardest habits, and defined where it has nothing to say."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vectors
from flexdetr.classes import Classes
from flexdetr.data.dataset import Record, to_coco
from flexdetr.data.detect import read
from flexdetr.metrics import matching
from flexdetr.metrics.coco_map import Metrics, evaluate, score
from flexdetr.metrics.matching import AllDetections, Objects

# pycocotools' order of its twelve numbers is that of Metrics.numbers().
SIZES = ("small", "medium", "large")
NAMES = ["ap", "ap50", "ap75", *(f"ap_{size}" for size in SIZES), "ar1", "ar10", "ar100"]
NAMES += [f"ar_{size}" for size in SIZES]


@pytest.fixture(scope="module")
def golden():
    return {
        name: json.loads((vectors.HERE / f"coco_{name}.json").read_text())
        for name in ("gt", "dt", "expected")
    }


def by_pycocotools(ground_truth: dict, detections: list[dict]) -> list[float]:
    """The oracle's twelve numbers, nan where it says -1."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(ground_truth))
        truth.createIndex()
        results = truth.loadRes(json.loads(json.dumps(detections)))
        evaluation = cocoeval.COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value == -1 else value for value in evaluation.stats.tolist()]


def evaluate_coco(ground_truth: dict, detections: list[dict]) -> Metrics:
    """Score COCO's own dictionaries, in 64-bit numbers; what is of no category that is defined is left out."""
    rows = {image: row for row, image in enumerate(sorted(one["id"] for one in ground_truth["images"]))}
    names = {one["id"]: one["name"] for one in ground_truth["categories"]}
    columns = {category: column for column, category in enumerate(names)}

    def known(entries: list[dict]):
        own = [one for one in entries if one["category_id"] in columns]
        groups = [columns[one["category_id"]] * len(rows) + rows[one["image_id"]] for one in own]
        boxes = np.array([one["bbox"] for one in own], np.float64).reshape(-1, 4)
        return own, np.array(groups, np.int64), boxes

    labelled, *placed = known(ground_truth["annotations"])
    areas = np.array([one["area"] for one in labelled], np.float64)
    objects = Objects(*placed, areas, np.array([bool(one["iscrowd"]) for one in labelled], np.bool_))
    counted, *placed = known(detections)
    found = AllDetections(*placed, np.array([one["score"] for one in counted], np.float64))
    return score(objects, found, len(rows), list(names.values()))


def as_arrays(ground_truth: dict, detections: list[dict]):
    """The same data as records, detections by image and classes."""
    classes = Classes.from_json(ground_truth["categories"])

    def joined(rows: list[dict], image: dict):
        own = [row for row in rows if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return own, boxes, np.array([classes.ids.index(row["category_id"]) for row in own], np.int64)

    records, found = [], {}
    for image in ground_truth["images"]:
        own, boxes, labels = joined(ground_truth["annotations"], image)
        records.append(
            Record(
                path=Path(str(image["id"])),
                image_id=image["id"],
                width=image["width"],
                height=image["height"],
                boxes_xyxy=boxes.astype(np.float32),
                labels=labels,
                iscrowd=np.array([bool(row["iscrowd"]) for row in own]),
                areas=np.array([row["area"] for row in own], np.float32),
            )
        )
        own, boxes, labels = joined(detections, image)
        found[image["id"]] = (boxes.astype(np.float32), np.array([row["score"] for row in own]), labels)
    return records, found, classes


def test_golden_numbers(golden):
    metrics = evaluate_coco(golden["gt"], golden["dt"])
    assert list(metrics.numbers()) == NAMES
    expected = list(golden["expected"]["numbers"].values())
    np.testing.assert_allclose(list(metrics.numbers().values()), expected, atol=1e-9)


def test_golden_numbers_of_each_class(golden):
    per_class = evaluate_coco(golden["gt"], golden["dt"]).to_json()["per_class"]
    names = {str(one["id"]): one["name"] for one in golden["gt"]["categories"]}
    for category, expected in golden["expected"]["per_category"].items():
        own = per_class[names[category]]
        for key, value in expected.items():
            assert own[key] is None if value is None else own[key] == pytest.approx(value, abs=1e-9)
    assert per_class["only_crowd"]["num_objects"] == per_class["never_annotated"]["num_objects"] == 0


def test_golden_numbers_from_records(golden):
    records, found, classes = as_arrays(golden["gt"], golden["dt"])
    metrics = evaluate(records, found, classes)
    expected = list(golden["expected"]["numbers"].values())
    np.testing.assert_allclose(list(metrics.numbers().values()), expected, atol=1e-6)
    assert list(metrics.per_class) == list(classes.names)


@st.composite
def data_sets(draw) -> tuple[dict, list[dict]]:
    """Small data sets on a coarse grid, where IoUs and scores tie, boxes repeat and groups overflow."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_images, step = draw(st.integers(1, 6)), draw(st.sampled_from([8, 20, 40]))
    ids = sorted(rng.choice(50, draw(st.integers(1, 4)), replace=False).tolist())
    images = rng.permutation(100)[:num_images].tolist()

    def rows(count: int) -> list[dict]:
        return [
            {
                "image_id": int(rng.choice(images)),
                "category_id": int(rng.choice(ids)),
                "bbox": [*(rng.integers(0, 6, 2) * step).tolist(), *(rng.integers(1, 5, 2) * step).tolist()],
            }
            for _ in range(count)
        ]

    annotations = [
        {
            **row,
            "id": number,
            "area": float(row["bbox"][2] * row["bbox"][3] * rng.choice([0.4, 1.0])),
            "iscrowd": int(rng.random() < 0.15),
        }
        for number, row in enumerate(rows(draw(st.integers(0, 40))), start=1)
    ]
    digits = draw(st.integers(1, 3))
    detections = [
        {**row, "score": round(float(rng.random()), digits)} for row in rows(draw(st.integers(1, 400)))
    ]
    ground_truth = {
        "images": [{"id": one, "width": 400, "height": 400} for one in images],
        "annotations": annotations,
        "categories": [{"id": one, "name": f"class {one}"} for one in ids],
    }
    return ground_truth, detections


@given(data_sets())
@settings(deadline=None, max_examples=30)
def test_equals_pycocotools(case):
    ground_truth, detections = case
    expected = by_pycocotools(ground_truth, detections)
    np.testing.assert_allclose(
        list(evaluate_coco(ground_truth, detections).numbers().values()), expected, atol=1e-9
    )
    records, found, classes = as_arrays(ground_truth, detections)
    np.testing.assert_allclose(
        list(evaluate(records, found, classes).numbers().values()), expected, atol=1e-9
    )


def test_what_is_to_be_ignored_counts_like_a_crowd_which_pycocotools_does_by_iscrowd_alone(tmp_path):
    """It overwrites a written ``ignore`` with ``iscrowd``: what it gets from us says iscrowd, and the numbers agree."""
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    labels = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "bbox": [50, 0, 50, 100],
            "area": 5000,
            "ignore": 1,
            "iscrowd": 0,
        },
    ]
    written = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "annotations": labels,
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "instances_test.json").write_text(json.dumps(written))
    dataset = read(tmp_path)
    records = dataset.split("test")
    boxes = np.array([[50, 0, 60, 10], [70, 40, 90, 60], [52, 80, 62, 99], [0, 0, 20, 20]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    found = {records[0].image_id: (boxes, scores, np.zeros(4, np.int64))}
    ours = evaluate(records, found, dataset.classes)
    assert ours.ap == pytest.approx(1)
    assert ours.per_class["car"].num_objects == 1
    answers = [
        {"image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for (x0, y0, x1, y1), score in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        list(ours.numbers().values()), by_pycocotools(to_coco(records, dataset.classes), answers), atol=1e-9
    )
    assert by_pycocotools(written, answers)[0] < 0.5  # the file as it is: an object that was not found


@given(data_sets())
@settings(deadline=None, max_examples=5)
def test_pairs_are_the_same_in_any_portion(case):
    whole = evaluate_coco(*case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "PAIRS_AT_ONCE", 7)
        assert evaluate_coco(*case).to_json() == whole.to_json()


def record(image_id, boxes=(), labels=(), crowd=None) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Record(
        path=Path(str(image_id)),
        image_id=image_id,
        width=100,
        height=100,
        boxes_xyxy=boxes,
        labels=np.array(labels, np.int64),
        iscrowd=np.zeros(len(boxes), bool) if crowd is None else np.array(crowd),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )


NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
BOX = [10, 10, 50, 50]


def test_perfect_detections_score_one():
    records = [record("a", [BOX], [0]), record("b", [BOX, [0, 0, 9, 9]], [1, 0]), record("c")]
    found = {one.image_id: (one.boxes_xyxy, np.ones(len(one)), one.labels) for one in records}
    metrics = evaluate(records, found, Classes.of(["x", "y"]))
    assert [metrics.ap, metrics.ap50, metrics.ar100] == pytest.approx([1, 1, 1])
    assert metrics.per_class["y"].ap == pytest.approx(1)
    assert math.isnan(metrics.per_class["y"].ap_small)
    assert math.isnan(metrics.ap_large)
    assert metrics.per_class["x"].num_objects == 2


def test_images_without_detections_or_objects():
    classes = Classes.of(["x"])
    assert evaluate([record(1, [BOX], [0])], {}, classes).ap == 0
    assert evaluate([record(1, [BOX], [0])], {1: NOTHING}, classes).ar100 == 0
    for records in ([], [record(1)]):
        empty = evaluate(records, {one.image_id: NOTHING for one in records}, classes)
        assert all(math.isnan(value) for value in empty.numbers().values())
        assert set(empty.to_json()["per_class"]["x"].values()) == {None, 0}
    false_alarm = {2: (np.array([BOX], np.float32), np.ones(1), np.zeros(1, np.int64))}
    assert evaluate([record(1, [BOX], [0]), record(2)], false_alarm, classes).ap == 0
    assert math.isnan(evaluate([], {}, Classes((), ())).ap)


def test_false_alarms_on_images_without_objects_cost_precision():
    classes = Classes.of(["x"])
    right = (np.array([BOX], np.float32), np.array([0.5]), np.zeros(1, np.int64))
    wrong = (np.array([BOX], np.float32), np.array([0.9]), np.zeros(1, np.int64))
    assert evaluate([record(1, [BOX], [0]), record(2)], {1: right, 2: wrong}, classes).ap == pytest.approx(
        0.5
    )


def test_a_crowd_swallows_detections_without_harm():
    records = [record(1, [BOX, [60, 60, 90, 90]], [0, 0], crowd=[True, False])]
    boxes = np.array([[60, 60, 90, 90], [12, 12, 30, 30], [20, 20, 40, 40]], np.float32)
    found = {1: (boxes, np.array([0.5, 0.9, 0.8]), np.zeros(3, np.int64))}
    metrics = evaluate(records, found, Classes.of(["x"]))
    assert metrics.ap == pytest.approx(1)
    assert metrics.per_class["x"].num_objects == 1


def test_nothing_is_printed(golden, capfd):
    evaluate_coco(golden["gt"], golden["dt"])
    assert capfd.readouterr() == ("", "")


def test_json_has_no_nan_and_reads_back(golden):
    text = json.dumps(evaluate([], {}, Classes.of(["x"])).to_json(), allow_nan=False)
    assert '"ap": null' in text
    assert math.isnan(Metrics.from_json(json.loads(text)).ap)
    document = json.loads(json.dumps(evaluate_coco(golden["gt"], golden["dt"]).to_json()))
    assert Metrics.from_json({"epoch": 3, **document}).to_json() == document


def test_mistakes_are_refused():
    classes, records = Classes.of(["x"]), [record("a", [BOX], [0])]
    boxes = np.array([BOX], np.float32)
    with pytest.raises(ValueError, match="image 'b', which is not among"):
        evaluate(records, {"b": NOTHING}, classes)
    with pytest.raises(ValueError, match="name class 1, known are 0 to 0"):
        evaluate(records, {"a": (boxes, np.ones(1), np.ones(1, np.int64))}, classes)
    with pytest.raises(ValueError, match="NaN"):
        evaluate(records, {"a": (boxes, np.array([np.nan]), np.zeros(1, np.int64))}, classes)
    with pytest.raises(ValueError, match="do not fit together"):
        evaluate(records, {"a": (boxes, np.ones(2), np.zeros(1, np.int64))}, classes)
    with pytest.raises(ValueError, match="occurs more than once"):
        evaluate([*records, *records], {}, classes)
