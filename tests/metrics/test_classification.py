"""Top-1, top-5, recall and precision against counts by hand; what cannot be scored."""

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
from flexdetr.metrics.classification import ClassMetrics, answers_of, confusion, evaluate
from flexdetr.metrics.flat_arrays import DetectionsError

CLASSES = Classes(("cat", "dog", "owl"), (0, 1, 2))


def record(number: int, label: int) -> Record:
    box = np.array([[0, 0, 4, 4]], np.float32)
    labels, crowd = np.array([label], np.int64), np.zeros(1, np.bool_)
    return Record(Path(f"{number}.png"), number, 4, 4, box, labels, crowd, np.full(1, 16, np.float32))


def answer(*shares: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.argsort(-np.array(shares), kind="stable")
    return np.zeros((len(shares), 4)), np.array(shares)[order], order


def test_counts_by_hand() -> None:
    records = [record(0, 0), record(1, 0), record(2, 1), record(3, 1)]
    found = {
        0: answer(0.8, 0.1, 0.1),
        1: answer(0.3, 0.6, 0.1),
        2: answer(0.1, 0.8, 0.1),
        3: answer(0.2, 0.7, 0.1),
    }
    metrics = evaluate(records, found, CLASSES)
    assert (metrics.top1, metrics.top5, metrics.balanced) == (0.75, 1.0, 0.75)
    dog = metrics.per_class["dog"]
    assert (dog.recall, dog.precision, dog.num_images) == (1.0, pytest.approx(2 / 3), 2)
    assert dog.f1 == pytest.approx(0.8)
    assert math.isnan(metrics.per_class["owl"].recall)
    again = ClassMetrics.from_json(json.loads(json.dumps(metrics.to_json())))
    assert again.pair == metrics.pair
    assert again.per_class["dog"] == dog
    assert confusion(answers_of(records, found, CLASSES), 3).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.floats(0, 1), min_size=3, max_size=3)),
        min_size=1,
        max_size=20,
    )
)
def test_confusion_and_recall_agree(rows: list[tuple[int, list[float]]]) -> None:
    records = [record(number, label) for number, (label, _) in enumerate(rows)]
    found = {number: answer(*shares) for number, (_, shares) in enumerate(rows)}
    counts, metrics = confusion(answers_of(records, found, CLASSES), 3), evaluate(records, found, CLASSES)
    assert counts.sum() == len(rows)
    assert metrics.top1 == pytest.approx(np.trace(counts) / len(rows))
    for index, name in enumerate(CLASSES.names):
        if counts[index].sum():
            assert metrics.per_class[name].recall == pytest.approx(counts[index, index] / counts[index].sum())


def test_what_cannot_be_scored() -> None:
    with pytest.raises(DetectionsError, match="NaN"):
        evaluate([record(0, 0)], {0: answer(float("nan"), 0.1, 0.1)}, CLASSES)
    with pytest.raises(DetectionsError, match="no answer"):
        evaluate([record(0, 0)], {}, CLASSES)
