"""What is written is read back the same: ids with holes, names, crowd flags, images without objects."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexdetr.classes import Classes
from flexdetr.data.dataset import DataError, Dataset, Record
from flexdetr.data.detect import read
from flexdetr.data.writing import renumbered, write

CLASSES = Classes(("red <cell>", "\u732b", "dog & cat"), (1, 5, 90))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


def record(path: Path, number: int | str, boxes: list, labels: list, crowd: list | None = None) -> Record:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    areas = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    flags = np.array(crowd or [False] * len(labels), bool)
    return Record(path, number, 40, 30, xyxy, np.array(labels, np.int64), flags, areas)


@pytest.fixture
def dataset(tmp_path: Path, write_image) -> Dataset:
    """Two splits, an image without objects, a crowd, an area of its own, and two files of one name."""
    folder = tmp_path / "given"
    paths = [
        write_image(folder / name, seed=i)
        for i, name in enumerate(("a/x.png", "b/X.png", "b/y.jpg", "t.png"))
    ]
    first = record(paths[0], 7, [[0, 0, 10.5, 20.25], [3, 4, 39, 30]], [2, 0], [False, True])
    first = replace(first, areas=np.array([99.5, 500], np.float32))
    rest = [record(paths[1], 3, [[1.125, 2, 3, 4]], [1]), record(paths[2], 12, [], [])]
    test = record(paths[3], 3, [[5, 5, 7, 8]], [0])
    return Dataset(folder, "coco", CLASSES, {"train": (first, *rest), "test": (test,)})


def assert_same(one: Dataset, other: Dataset, *, crowd: bool = True, tolerance: float = 0.0) -> None:
    assert one.classes.names == other.classes.names
    assert one.splits.keys() == other.splits.keys()
    for split, records in one.splits.items():
        again = {found.path.read_bytes(): found for found in other.splits[split]}
        assert len(again) == len(records)
        for expected in records:
            found = again[expected.path.read_bytes()]
            keep = np.ones(len(expected), bool) if crowd else ~expected.iscrowd
            assert (found.width, found.height) == (expected.width, expected.height)
            assert found.boxes_xyxy == pytest.approx(expected.boxes_xyxy[keep], abs=tolerance)
            assert found.labels.tolist() == expected.labels[keep].tolist()


def test_coco_holds_everything(dataset, tmp_path):
    written = write(dataset, tmp_path / "out", "coco")
    assert (written.images, written.boxes, written.notes) == (4, 4, ())
    again = read(written.root, val_fraction=None)
    assert again.format == "coco"
    assert again.classes == dataset.classes
    assert_same(dataset, again)
    for split, records in dataset.splits.items():
        for expected, found in zip(records, again.splits[split], strict=True):
            assert found.image_id == expected.image_id
            assert found.iscrowd.tolist() == expected.iscrowd.tolist()
            assert found.areas.tolist() == expected.areas.tolist()
    assert {path.name for path in (written.root / "train").iterdir()} == {"x.png", "X-2.png", "y.jpg"}


def test_yolo_keeps_ids_with_holes_and_says_what_it_cannot_hold(dataset, tmp_path):
    written = write(dataset, tmp_path / "out", "yolo")
    assert "crowd regions left out" in written.notes[0]
    assert "--renumber" in written.notes[1]
    again = read(written.root, val_fraction=None)
    assert (again.format, again.classes) == ("yolo", dataset.classes)
    assert_same(dataset, again, crowd=False, tolerance=1e-5)
    assert (written.root / "labels" / "train" / "y.txt").read_text() == ""
    plain = write(renumbered(dataset), tmp_path / "plain", "yolo")
    assert read(plain.root).classes.ids == (0, 1, 2)
    assert len(plain.notes) == 1


def test_voc_keeps_names_and_marks_crowds_as_difficult(dataset, tmp_path):
    written = write(dataset, tmp_path / "out", "voc")
    assert written.notes == (
        "crowd regions marked as difficult objects: 1",
        "Pascal VOC has no class ids: 1, 5, 90 become 0 to 2",
    )
    again = read(written.root, val_fraction=None)
    assert again.format == "voc"
    assert not again.defects
    assert_same(dataset, again)
    document = ET.parse(written.root / "Annotations" / "x.xml")
    assert [node.text for node in document.iter("difficult")] == ["0", "1"]
    assert [node.text for node in document.iter("xmin")] == ["1", "4"]


@pytest.mark.parametrize("through", ["coco", "voc", "yolo"])
def test_round_trips_through_each_form_end_where_they_began(dataset, tmp_path, through):
    tight = Classes.of(CLASSES.names)
    for number, records in enumerate(dataset.splits.values()):
        assert number < 2
        assert records
    plain = replace(
        dataset,
        classes=tight,
        splits={
            split: tuple(replace(one, iscrowd=np.zeros(len(one), bool)) for one in records)
            for split, records in dataset.splits.items()
        },
    )
    there = read(write(plain, tmp_path / "there", through).root, val_fraction=None)
    back = read(write(there, tmp_path / "back", "coco").root, val_fraction=None)
    assert back.classes == tight
    assert_same(plain, back, tolerance=1e-5 if through == "yolo" else 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.data(), st.dictionaries(st.integers(0, 10**6), NAMES, min_size=1, max_size=4))
def test_any_names_and_ids_come_back(tmp_path_factory, write_image, data, names):
    if len(set(names.values())) < len(names):
        return
    classes = Classes(tuple(names[number] for number in sorted(names)), tuple(sorted(names)))
    folder = tmp_path_factory.mktemp("any")
    path = write_image(folder / "a.png")
    corner = st.integers(0, 19)
    boxes = data.draw(
        st.lists(st.tuples(corner, corner, st.integers(21, 40), st.integers(21, 30)), max_size=3)
    )
    labels = data.draw(st.lists(st.integers(0, len(classes) - 1), min_size=len(boxes), max_size=len(boxes)))
    given = Dataset(folder, "coco", classes, {"train": (record(path, 1, boxes, labels),)})
    for form in ("coco", "yolo", "voc"):
        again = read(write(given, folder / form, form).root, val_fraction=None)
        assert_same(given, again, tolerance=1e-4)
        assert again.classes == (classes if form != "voc" else Classes.of(classes.names))


def test_image_ids_that_are_no_numbers_are_numbered_in_coco(dataset, tmp_path):
    named = {"train": tuple(replace(one, image_id=one.path.stem) for one in dataset.splits["train"])}
    written = write(replace(dataset, splits=named), tmp_path / "out", "coco")
    document = json.loads((written.root / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in document["images"]] == [1, 2, 3]
    assert {row["image_id"] for row in document["annotations"]} == {1, 2}


def test_links_save_the_space_of_copies(dataset, tmp_path):
    seen = []
    written = write(dataset, tmp_path / "out", "coco", link=True, progress=lambda *count: seen.append(count))
    assert (written.root / "train" / "x.png").stat().st_nlink == 2
    assert seen[-1] == (4, 4)


def test_a_folder_is_there_whole_or_not_at_all(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    assert write(dataset, tmp_path / "empty", "voc").root == tmp_path / "empty"
    with pytest.raises(DataError, match="not empty"):
        write(dataset, tmp_path / "empty", "voc")
    with pytest.raises(DataError, match="yolo"):
        write(dataset, tmp_path / "new", "yollo")
    with pytest.raises(DataError, match="no images"):
        write(replace(dataset, splits={}), tmp_path / "new", "coco")
    dataset.splits["test"][0].path.unlink()
    with pytest.raises(FileNotFoundError):
        write(dataset, tmp_path / "new", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "given"]


def test_boxes_of_one_pixel_are_left_out_of_voc_and_it_says_so(dataset, tmp_path, write_image):
    path = write_image(tmp_path / "given" / "one.png")
    small = record(path, 1, [[5, 5, 6, 9], [5, 5, 6.5, 9]], [0, 1])
    written = write(replace(dataset, splits={"train": (small,)}), tmp_path / "out", "voc")
    assert "one pixel or less left out" in written.notes[0]
    again = read(written.root, val_fraction=None)
    assert not again.defects
    assert again.splits["train"][0].boxes_xyxy.tolist() == [[5, 5, 6.5, 9]]


def test_what_voc_cannot_hold_is_refused(dataset, tmp_path, write_image):
    odd = replace(dataset, classes=Classes(("a\nb", "c", "d"), (0, 1, 2)))
    with pytest.raises(DataError, match=r"class name 'a\\nb'"):
        write(odd, tmp_path / "out", "voc")
    spaced = record(write_image(tmp_path / "given" / "my cat.png"), 1, [], [])
    with pytest.raises(DataError, match="spaces"):
        write(replace(dataset, splits={"train": (spaced,)}), tmp_path / "out", "voc")
