"""Reading, scoring and reporting on real photographs, whose boxes are dense, cut off and of uneven sizes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from flexdetr.config import DataConfig
from flexdetr.data.check import check
from flexdetr.data.dataset import Dataset
from flexdetr.data.detect import read
from flexdetr.data.images import read_image
from flexdetr.data.transforms import Sample, strong
from flexdetr.metrics.coco_map import evaluate
from flexdetr.metrics.mistakes import find_mistakes
from flexdetr.report.make import ReportContent, write_report


@pytest.fixture(scope="module")
def dataset(photographs: Path) -> Dataset:
    return read(photographs, val_fraction=None)


def disturbed(dataset: Dataset) -> dict:
    """Detections by image id: the labels, moved by a share of their size; with false alarms of low score."""
    rng = np.random.default_rng(0)
    found = {}
    for record in dataset.splits["train"]:
        boxes, labels = record.boxes_xyxy.astype(np.float64), record.labels
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        moved = boxes + sides * rng.normal(0, 0.06, boxes.shape)
        low = rng.uniform(0, (300, 200), (4, 2))
        moved = np.concatenate([moved, np.hstack([low, low + rng.uniform(20, 90, (4, 2))])])
        scores = np.concatenate([rng.uniform(0.3, 1, len(boxes)), rng.uniform(0.01, 0.6, 4)])
        labels = np.concatenate([labels, rng.integers(0, len(dataset.classes), 4)])
        found[record.image_id] = (moved.astype(np.float32), scores, labels)
    return found


def test_they_are_usable_and_what_their_readme_says(photographs: Path, dataset: Dataset) -> None:
    report = check(photographs)
    assert report.usable
    assert report.to_json()["defects"] == []
    records = dataset.splits["train"]
    assert (len(records), sum(map(len, records)), len(dataset.classes)) == (20, 235, 19)
    assert [record.path.name for record in records if not len(record)] == ["chess_8.jpg"]
    readme = (photographs / "README.md").read_text(encoding="utf-8")
    assert "235 boxes of 19" in " ".join(readme.split())
    for record in records:
        image = read_image(record.path)
        assert image.shape == (record.height, record.width, 3)
        assert image.std() > 10


def test_scores_are_pycocotools(photographs: Path, dataset: Dataset) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    found = disturbed(dataset)
    rows = [
        {
            "image_id": image,
            "category_id": dataset.classes.ids[label],
            "bbox": [float(x0), float(y0), float(x1) - float(x0), float(y1) - float(y0)],
            "score": float(score),
        }
        for image, (boxes, scores, labels) in found.items()
        for (x0, y0, x1, y1), score, label in zip(boxes, scores, labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = pycocotools.COCO(str(photographs / "annotations.json"))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    own = evaluate(dataset.splits["train"], found, dataset.classes).numbers()
    assert 0.3 < own["ap"] < 0.95  # neither all right nor all wrong, or the comparison would show little
    np.testing.assert_allclose(list(own.values()), evaluation.stats, atol=1e-6)


def test_the_report_counts_what_was_left_out_and_shows_it(dataset: Dataset, tmp_path: Path) -> None:
    white = dataset.classes.names.index("WBC")
    records = dataset.splits["train"]
    found = {
        record.image_id: (
            record.boxes_xyxy[record.labels != white],
            np.ones(int((record.labels != white).sum())),
            record.labels[record.labels != white],
        )
        for record in records
    }
    metrics = evaluate(records, found, dataset.classes)
    assert metrics.per_class["WBC"].ap == 0
    others = [one.ap for name, one in metrics.per_class.items() if name != "WBC"]
    assert others == pytest.approx([1.0] * 18)
    mistakes = find_mistakes(records, found, [0.5] * len(dataset.classes))
    document = json.loads((records[0].path.parent / "annotations.json").read_text(encoding="utf-8"))
    whites = sum(row["category_id"] == dataset.classes.ids[white] for row in document["annotations"])
    assert {one.kind for one in mistakes.wrong} == {"missed"}
    assert len(mistakes.wrong) == whites
    path = tmp_path / "report.html"
    best = write_report(path, ReportContent("photographs", "", records, found, dataset.classes, metrics))
    assert set(best) == set(dataset.classes.names) - {"WBC"}
    text = path.read_text(encoding="utf-8")
    assert "cells_00007.jpg" in text
    assert text.count("data:image/jpeg") >= len({one.image for one in mistakes.wrong})


@pytest.mark.parametrize("name", ["fruit_1.jpg", "fruit_2.jpg"])
def test_an_orange_stays_in_its_box_through_the_augmentations_of_training(
    dataset: Dataset, name: str
) -> None:
    record = next(one for one in dataset.splits["train"] if one.path.name == name)
    orange = dataset.classes.names.index("orange")
    sample = Sample(read_image(record.path), record.boxes_xyxy, record.labels)
    config = DataConfig(photometric=0, zoom_out=0.5, iou_crop=0.8, flip=0.5)
    seen = 0
    for seed in range(40):
        changed = strong(sample, (160, 160), np.random.default_rng(seed), config)
        for box in changed.boxes_xyxy[changed.labels == orange]:
            x0, y0, x1, y1 = box
            if min(x1 - x0, y1 - y0) < 8:
                continue
            rows = slice(int(y0 + 0.35 * (y1 - y0)), int(y0 + 0.65 * (y1 - y0)) + 1)
            columns = slice(int(x0 + 0.35 * (x1 - x0)), int(x0 + 0.65 * (x1 - x0)) + 1)
            red, green, blue = np.median(changed.image[rows, columns].reshape(-1, 3), 0)
            assert red > 1.5 * green > 3 * blue, (seed, box)
            seen += 1
    assert seen > 20
