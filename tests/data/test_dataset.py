from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flexdetr.classes import Classes
from flexdetr.data.dataset import DataError, Dataset, Defect, cut_validation


@pytest.fixture
def dataset(records):
    return Dataset(Path("somewhere"), "coco", Classes(("a", "b", "c"), (1, 2, 3)), {"train": records})


def test_labels_follow_another_order_of_classes(dataset):
    other = Classes(("x", "c", "a", "b"), (9, 8, 7, 6))
    changed = dataset.with_classes(other)
    for before, after in zip(dataset.splits["train"], changed.splits["train"], strict=True):
        assert [dataset.classes.names[label] for label in before.labels] == [
            other.names[label] for label in after.labels
        ]
    assert changed.classes == other
    assert dataset.with_classes(dataset.classes) is dataset


def test_a_class_that_the_detector_lacks_is_refused_only_where_it_occurs(dataset):
    with pytest.raises(DataError, match="labels objects 'c', which the detector was not made for"):
        dataset.with_classes(Classes.of(["a", "b"]))
    without = tuple(
        dataclasses.replace(record, labels=np.minimum(record.labels, 1)) for record in dataset.splits["train"]
    )
    assert (
        len(
            dataclasses.replace(dataset, splits={"train": without})
            .with_classes(Classes.of(["b", "a"]))
            .classes
        )
        == 2
    )


def test_unknown_split_is_answered_with_those_there_are(dataset):
    assert len(dataset.split("train")) == 11
    with pytest.raises(DataError, match="no split 'test'; it has: train"):
        dataset.split("test")


def test_cutting_keeps_what_is_there(records):
    given = {"test": records[:2], "val": records[2:4], "train": records[4:]}
    found, notes = cut_validation(given, 0.5, 0)
    assert list(found) == ["train", "val", "test"]
    assert not notes
    found, notes = cut_validation({"train": records[:1]}, 0.5, 0)
    assert list(found) == ["train"]
    assert "single" in notes[0]
    assert cut_validation({"test": records}, 0.5, 0)[0].keys() == {"test"}


def test_defect_names_its_place():
    assert str(Defect("error", Path("a.txt"), 3, "wrong")) == "a.txt:3: error: wrong"
    assert str(Defect("warning", Path("a.jpg"), None, "odd")) == "a.jpg: warning: odd"
    assert Defect("error", Path("a.txt"), 3, "wrong").to_json()["line"] == 3
