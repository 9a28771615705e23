"""Confusion matrix and threshold curves, on cases that can be counted by hand and against brute force."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.metrics.coco_map import evaluate
from flexdetr.metrics.confusion import Ranking, confusion_matrix, rank_detections

CLASSES = Classes(("cat", "dog", "owl"), (1, 3, 7))
A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 60, 20]


def record(image_id, boxes=(), labels=(), crowd=()) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.array(crowd, bool) if len(crowd) else np.zeros(len(boxes), bool)
    return Record(
        Path("x"), image_id, 99, 99, boxes, np.array(labels, np.int64), crowd, np.full(len(boxes), 100.0)
    )


def found(boxes=(), scores=(), labels=()):
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, float), np.array(labels, np.int64)


def test_right_confused_missed_and_invented():
    records = [record("a", [A, B, C], [0, 1, 2]), record("b")]
    detections = {
        "a": found([A, B, [60, 60, 70, 70]], [0.9, 0.8, 0.7], [0, 0, 1]),
        "b": found([A], [0.6], [2]),
    }
    confusion = confusion_matrix(records, detections, CLASSES)
    assert confusion.counts.tolist() == [
        [1, 0, 0, 0],  # the cat
        [1, 0, 0, 0],  # the dog, taken for a cat
        [0, 0, 0, 1],  # the owl, missed
        [0, 1, 1, 0],  # a dog and an owl where nothing is
    ]
    assert confusion.to_json()["names"] == ["cat", "dog", "owl", "background"]
    json.dumps(confusion.to_json())


def test_a_better_scored_wrong_class_does_not_take_the_object_of_a_right_one():
    detections = {"a": found([A, A], [0.9, 0.6], [1, 0])}
    counts = confusion_matrix([record("a", [A], [0])], detections, CLASSES).counts
    assert counts[0, 0] == 1
    assert counts[3, 1] == 1
    assert counts.sum() == 2


def test_thresholds_for_all_or_each_class():
    records, detections = [record("a", [A, B], [0, 1])], {"a": found([A, B], [0.6, 0.4], [0, 1])}
    assert confusion_matrix(records, detections, CLASSES).counts[1].tolist() == [0, 0, 0, 1]
    own = confusion_matrix(records, detections, CLASSES, threshold=[0.7, 0.3, 0.5]).counts
    assert own[0].tolist() == [0, 0, 0, 1]
    assert own[1].tolist() == [0, 1, 0, 0]
    with pytest.raises(ValueError, match="broadcast"):
        confusion_matrix(records, detections, CLASSES, threshold=[0.1, 0.2])


def test_crowds_neither_count_nor_blame():
    records = [record("a", [[0, 0, 50, 50]], [0], [True])]
    detections = {"a": found([A, B], [0.9, 0.8], [0, 1])}
    counts = confusion_matrix(records, detections, CLASSES).counts
    assert counts.sum() == counts[3, 1] == 1
    ranking = rank_detections(records, detections, CLASSES)["cat"]
    assert len(ranking.scores) == ranking.num_objects == 0
    assert math.isnan(ranking.best_threshold())


def test_empty_data():
    assert confusion_matrix([], {}, CLASSES).counts.sum() == 0
    assert confusion_matrix([record(1, [A], [0])], {}, CLASSES).counts[0, 3] == 1
    ranking = rank_detections([record(1)], {1: found()}, CLASSES)["owl"]
    curve = ranking.at([0.0, 0.5])
    assert np.isnan(curve.precision).all()
    assert np.isnan(curve.f1).all()


def test_curve_and_best_threshold():
    ranking = Ranking(np.array([0.9, 0.8, 0.7, 0.4, 0.2]), np.array([True, True, False, True, False]), 4)
    curve = ranking.at([0.0, 0.4, 0.75, 0.95])
    assert curve.precision.tolist()[:3] == pytest.approx([3 / 5, 3 / 4, 1])
    assert math.isnan(curve.precision[3])
    assert curve.recall.tolist() == pytest.approx([3 / 4, 3 / 4, 2 / 4, 0])
    assert curve.f1.tolist() == pytest.approx([6 / 9, 6 / 8, 4 / 6, 0])
    assert ranking.best_threshold() == pytest.approx(0.3)
    assert Ranking(np.array([0.5]), np.array([True]), 1).best_threshold() == pytest.approx(0.25)
    assert math.isnan(Ranking(np.array([0.5]), np.array([False]), 1).best_threshold())


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def boxes(count: int):
        corner = rng.integers(0, 5, (count, 2)) * 8
        return np.concatenate([corner, corner + rng.integers(1, 4, (count, 2)) * 8], axis=1)

    records, detections = [], {}
    for image in range(draw(st.integers(1, 4))):
        count, wrong = int(rng.integers(0, 8)), int(rng.integers(0, 15))
        records.append(record(image, boxes(count), rng.integers(0, 3, count)))
        detections[image] = found(boxes(wrong), rng.integers(1, 20, wrong) / 20, rng.integers(0, 3, wrong))
    return records, detections


@given(cases(), st.sampled_from([0.0, 0.3, 0.5, 0.8]))
@settings(deadline=None, max_examples=30)
def test_matrix_curves_and_average_precision_agree(case, threshold):
    records, detections = case
    counts = confusion_matrix(records, detections, CLASSES, threshold=threshold).counts
    labels = np.concatenate([one.labels for one in records])
    kept = np.concatenate([classes[scores >= threshold] for _, scores, classes in detections.values()])
    assert counts[:3].sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert counts[:, :3].sum(axis=0).tolist() == np.bincount(kept, minlength=3).tolist()
    rankings = rank_detections(records, detections, CLASSES)
    metrics = evaluate(records, detections, CLASSES)
    for index, (name, ranking) in enumerate(rankings.items()):
        assert ranking.num_objects == metrics.per_class[name].num_objects
        if not ranking.num_objects:
            continue
        curve = ranking.at([threshold])
        assert curve.recall[0] == pytest.approx(counts[index, index] / ranking.num_objects)
        if counts[:, index].sum():
            assert curve.precision[0] == pytest.approx(counts[index, index] / counts[:, index].sum())
        best = ranking.best_threshold()
        if not math.isnan(best):
            assert ranking.at([best]).f1[0] >= np.max(ranking.at(np.linspace(0, 1, 41)).f1) - 1e-12
