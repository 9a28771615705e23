from __future__ import annotations

import shutil

import numpy as np
import pytest

from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read

YAML = "train: train/images\nval: valid/images\nnc: 2\nnames: [cat, dog]\n"


def test_boxes_missing_labels_and_empty_labels(tmp_path, write_yolo):
    splits = {
        "train": {"a.png": ["1 0.5 0.5 0.2 0.4", "", "0 0.1 0.1 0.2 0.2"], "b.png": None, "c.png": []},
        "valid": {"d.png": ["0 0.5 0.5 1 1"]},
    }
    dataset = read(write_yolo(tmp_path, splits, YAML))
    assert dataset.format == "yolo"
    assert (dataset.classes.names, dataset.classes.ids) == (("cat", "dog"), (0, 1))
    first, second, third = dataset.splits["train"]
    assert first.boxes_xyxy == pytest.approx(np.array([[16, 9, 24, 21], [0, 0, 8, 6]]))
    assert first.labels.tolist() == [1, 0]
    assert len(second) == len(third) == 0
    assert [record.image_id for record in dataset.splits["train"]] == ["a", "b", "c"]
    assert not dataset.defects
    for inside in (tmp_path / "data.yaml", tmp_path / "train" / "labels" / "a.txt"):
        assert read(inside).splits.keys() == {"train", "val"}


@pytest.mark.parametrize("prefix", ["../", "./", ""])
def test_names_with_holes_and_foreign_prefixes(tmp_path, write_yolo, prefix):
    entries = f"train: {prefix}train/images\nval: {prefix}valid/images\n"
    text = f"path: /somewhere/else\n{entries}names:\n  3: cat\n  7: dog\n"
    lines = {"a.png": ["7 0.5 0.5 0.2 0.4", "3 0.1 0.1 0.2 0.2"]}
    dataset = read(write_yolo(tmp_path, {"train": lines, "valid": lines}, text))
    assert dataset.classes.ids == (3, 7)
    assert dataset.splits["train"][0].labels.tolist() == [1, 0]


def test_list_files_and_several_folders(tmp_path, write_yolo):
    splits = {"one": {"a.png": ["0 0.5 0.5 1 1"]}, "two": {"a.png": [], "b.png": []}}
    root = write_yolo(tmp_path, splits, "train: [one/images, two/images]\nval: list.txt\nnames: [cat]\n")
    (root / "list.txt").write_text("./two/images/b.png\n")
    dataset = read(root)
    assert len({record.image_id for record in dataset.splits["train"]}) == 3
    assert [record.image_id for record in dataset.splits["val"]] == ["b"]


def test_shared_mixed_polygons(tmp_path, shared_data):
    for path in (shared_data / "awkward" / "yolo_mixed_polygons").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "data.yaml").write_text("train: .\nnames: [zero, one, two]\n")
    dataset = read(tmp_path, val_fraction=0.1)
    records = (*dataset.splits["train"], *dataset.splits["val"])
    lines = sum(len(path.read_text().split("\n")) for path in tmp_path.glob("*.txt"))
    assert sum(map(len, records)) == lines == 38 + 24 + 37
    assert any("are polygons" in note for note in dataset.notes)
    assert not dataset.errors


def test_class_outside_the_names_is_refused_with_line_and_range(tmp_path, write_yolo):
    splits = {"train": {"a.png": ["0 0.5 0.5 1 1", "2 0.5 0.5 1 1"], "b.png": []}, "valid": {"c.png": []}}
    dataset = read(write_yolo(tmp_path, splits, YAML))
    (error,) = dataset.errors
    assert (error.file, error.line) == (tmp_path / "train" / "labels" / "a.txt", 2)
    assert "class id 2" in error.message
    assert "valid: 0 to 1" in error.message
    assert [record.image_id for record in dataset.splits["train"]] == ["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat]\n", "names no images"),
        ("train: train/images\n", "needs a key 'names'"),
        ("train: train/images\nnames: [cat]\nnc: 3\n", "nc: 3 and gives 1 names"),
        ("train: nowhere\nnames: [cat]\n", "'nowhere' was not found"),
        ("train: train\nval: valid\nnames: [cat, cat]\n", "occurs more than once"),
        ("train: train\nnames: {a: cat}\n", "names"),
        ("train: train\nnames: 5\n", "must be a list"),
        ("names: [\n", "cannot be read"),
    ],
)
def test_unusable_yaml_is_refused(tmp_path, write_yolo, text, message):
    write_yolo(tmp_path, {"train": {"a.png": []}}, text)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_missing_test_split_is_a_warning_and_missing_validation_an_error(tmp_path, write_yolo):
    splits = {"train": {"a.png": []}, "valid": {"b.png": []}}
    dataset = read(write_yolo(tmp_path, splits, YAML + "test: ../test/images\n"))
    assert dataset.splits.keys() == {"train", "val"}
    assert "no test split" in dataset.defects[0].message
    shutil.rmtree(tmp_path / "valid")
    with pytest.raises(DataError, match="val: 'valid/images' was not found"):
        read(tmp_path)
