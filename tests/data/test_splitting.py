"""Every image in exactly one split, groups together, the same again for the same seed; and data sets put together."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.classes import Classes
from flexdetr.data.dataset import DataError, Dataset, Record
from flexdetr.data.splitting import merge, split

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}


def record(name: str, labels: list[int], number: int | str | None = None) -> Record:
    count = len(labels)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
    numbers = np.array(labels, np.int64)
    return Record(
        Path(name), number or name, 9, 9, boxes, numbers, np.zeros(count, bool), np.ones(count, np.float32)
    )


def of(records: list[Record], names: str = "abc") -> Dataset:
    return Dataset(Path("data"), "coco", Classes.of(names), {"train": tuple(records)})


def paths(dataset: Dataset) -> dict[str, list[str]]:
    return {name: [str(one.path) for one in records] for name, records in dataset.splits.items()}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 2), max_size=4)), min_size=3, max_size=40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_every_image_is_in_one_split_and_groups_stay_together(images, grouped, stratified, seed):
    records = [record(f"film-{group}/{i}.jpg", labels) for i, (group, labels) in enumerate(images)]
    dataset = of(records)
    group = "folder" if grouped else None
    folders = {one.path.parent for one in records}
    if grouped and len(folders) < 3:
        with pytest.raises(DataError, match="groups cannot be divided"):
            split(dataset, THREE, group=group, stratified=stratified)
        return
    divided = split(dataset, THREE, seed=seed, group=group, stratified=stratified)
    assert divided.splits.keys() == THREE.keys()
    assert sorted(chain(*paths(divided).values())) == sorted(str(one.path) for one in records)
    assert paths(split(dataset, THREE, seed=seed, group=group, stratified=stratified)) == paths(divided)
    if grouped:
        homes = [{one.path.parent for one in records} for records in divided.splits.values()]
        assert sum(map(len, homes)) == len(folders)


def test_shares_are_kept():
    dataset = of([record(f"{i}.jpg", []) for i in range(100)])
    divided = split(dataset, THREE)
    assert {name: len(records) for name, records in divided.splits.items()} == {
        "train": 80,
        "val": 10,
        "test": 10,
    }
    assert paths(split(dataset, THREE, seed=1)) != paths(divided)


def test_stratified_splits_hold_rare_classes_and_empty_images_by_their_share():
    labels = [[0]] * 160 + [[0, 1]] * 20 + [[2]] * 10 + [[]] * 10
    divided = split(of([record(f"{i}.jpg", own) for i, own in enumerate(labels)]), THREE, stratified=True)
    for name, expected in (("train", (144, 16, 8, 8)), ("val", (18, 2, 1, 1)), ("test", (18, 2, 1, 1))):
        records = divided.splits[name]
        present = [sum(label in one.labels for one in records) for label in range(3)]
        assert (*present, sum(not len(one) for one in records)) == expected


def test_groups_by_expression():
    dataset = of([record(f"x/film{i % 4}_{i}.jpg", []) for i in range(40)])
    divided = split(dataset, {"train": 0.5, "val": 0.5}, group=r"film(\d)_")
    films = [{one.path.name[4] for one in records} for records in divided.splits.values()]
    assert films[0] | films[1] == set("0123")
    assert not films[0] & films[1]
    with pytest.raises(DataError, match="nowhere in"):
        split(dataset, THREE, group="frame")
    with pytest.raises(DataError, match="not a regular expression"):
        split(dataset, THREE, group="(")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.8, "val": 0.1}, "together 1"),
        ({"train": 1.2, "val": -0.2}, "above 0"),
        ({"train": 0.5, "dev": 0.5}, "dev"),
        ({}, "none"),
    ],
)
def test_shares_that_cannot_be(shares, message):
    with pytest.raises(DataError, match=message):
        split(of([record("a.jpg", [])] * 9), shares)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="2 images cannot be divided into 3"):
        split(of([record("a.jpg", []), record("b.jpg", [])]), THREE)


def test_merging_joins_classes_by_name_and_splits_by_name():
    first = Dataset(
        Path("a"), "coco", Classes(("cat", "dog"), (1, 7)), {"train": (record("1.jpg", [0, 1], 5),)}
    )
    second = Dataset(
        Path("b"),
        "yolo",
        Classes(("owl", "dog"), (3, 7)),
        {"train": (record("2.jpg", [1, 0], 5),), "val": (record("3.jpg", []),)},
    )
    both = merge([first, second])
    assert both.classes == Classes(("cat", "dog", "owl"), (1, 7, 3))
    assert [one.labels.tolist() for one in both.splits["train"]] == [[0, 1], [1, 2]]
    assert [one.image_id for one in both.splits["train"]] == [1, 2]
    assert len(both.splits["val"]) == 1
    assert not both.notes


def test_ids_that_contradict_each_other_are_numbered_anew_and_it_says_so():
    first = Dataset(Path("a"), "coco", Classes(("cat", "dog"), (1, 2)), {"train": (record("1.jpg", [1]),)})
    second = Dataset(Path("b"), "coco", Classes(("dog",), (1,)), {"train": (record("2.jpg", [0]),)})
    both = merge([first, second])
    assert both.classes == Classes.of(["cat", "dog"])
    assert [one.labels.tolist() for one in both.splits["train"]] == [[1], [1]]
    assert "now 0 to 1" in both.notes[0]
