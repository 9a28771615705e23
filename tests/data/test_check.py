from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.check import check, usable_records
from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read

YAML = "train: train/images\nval: valid/images\nnames: [cat, dog]\n"


@pytest.fixture
def root(tmp_path, write_yolo):
    splits = {
        "train": {f"{name}.png": ["0 0.5 0.5 0.5 0.5"] for name in "abcd"},
        "valid": {"v.png": ["0 0.5 0.5 0.9 0.9"], "w.png": None},
    }
    return write_yolo(tmp_path, splits, YAML)


def test_blood_cells_are_usable(shared_data):
    seen = []
    report = check(shared_data / "bccd", progress=lambda done, total: seen.append((done, total)))
    assert report.usable
    assert seen[-1] == (364, 364)
    document = json.loads(json.dumps(report.to_json()))
    assert document["splits"]["train"] == {"images": 205, "boxes": 2804, "without_boxes": 0}
    assert document["histogram"]["RBC"] == {"train": 2381, "val": 967, "test": 805}
    assert document["warnings"] == len(document["defects"]) == 9


def test_empty_images_and_classes_without_training_boxes(root):
    report = check(root)
    assert report.usable
    assert report.to_json()["splits"]["val"]["without_boxes"] == 1
    assert [defect.message for defect in report.defects] == ["class 'dog' has no boxes in the training split"]


def test_truncated_image_makes_it_unusable_unless_skipped(root):
    path = root / "train" / "images" / "b.png"
    path.write_bytes(path.read_bytes()[:-400])
    report = check(root)
    assert not report.usable
    assert report.defects[0].file == path
    dataset = read(root)
    with pytest.raises(DataError, match=r"b\.png.*cannot be read[\s\S]*skip_bad=true"):
        usable_records(dataset, "train", skip_bad=False)
    kept = usable_records(dataset, "train", skip_bad=True)
    assert [record.image_id for record in kept] == ["a", "c", "d"]
    assert len(usable_records(dataset, "val", skip_bad=False)) == 2


def test_bad_annotation_refuses_training_unless_skipped(root):
    (root / "train" / "labels" / "a.txt").write_text("5 0.5 0.5 0.5 0.5")
    assert not check(root).usable
    dataset = read(root)
    with pytest.raises(DataError, match=r"a\.txt:1: error: class id 5 .*valid: 0 to 1"):
        usable_records(dataset, "train", skip_bad=False)
    assert len(usable_records(dataset, "train", skip_bad=True)) == 3


def test_an_image_in_two_splits_is_listed(root):
    shutil.copyfile(root / "train" / "images" / "c.png", root / "valid" / "images" / "other.png")
    (defect,) = [defect for defect in check(root).defects if "split;" in defect.message]
    assert defect.file.name == "other.png"
    assert "c.png" in defect.message


def test_without_validation_images_it_is_unusable(root):
    for name in "bcd":
        (root / "train" / "images" / f"{name}.png").unlink()
    (root / "data.yaml").write_text("train: train/images\nnames: [cat, dog]\n")
    assert not check(root).usable


def test_long_lists_of_errors_are_shortened(root):
    for number in range(30):
        (root / "train" / "images" / f"bad{number}.png").write_text("none")
    with pytest.raises(DataError, match="and 20 more"):
        usable_records(read(root), "train", skip_bad=False)


def test_errors_of_another_split_do_not_matter(root):
    (root / "train" / "labels" / "a.txt").write_text("5 0.5 0.5 0.5 0.5")
    text = (root / "data.yaml").read_text().replace("val:", "test: valid/images\nval:")
    (root / "data.yaml").write_text(text)
    dataset = read(root)
    assert dataset.errors[0].split == "train"
    assert len(usable_records(dataset, "test", skip_bad=False)) == 2


def test_unreadable_annotation_file_is_named_though_its_split_is_missing(tmp_path, write_coco):
    write_coco(tmp_path / "valid" / "_annotations.coco.json", {"a.png": []}, {1: "c"})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "_annotations.coco.json").write_text("{")
    with pytest.raises(DataError, match=r"_annotations\.coco\.json:1: error: is not JSON"):
        usable_records(read(tmp_path), "train", skip_bad=False)
    with pytest.raises(DataError, match="no split 'train'"):
        usable_records(read(tmp_path), "train", skip_bad=True)


def test_pictures_of_twelve_bits_are_warned_about_once(root):
    for name in "ab":
        Image.fromarray(np.full((30, 40), 4095, np.uint16)).save(root / "train" / "images" / f"{name}.png")
    report = check(root)
    (said,) = [defect for defect in report.defects if "4095 of 65535" in defect.message]
    assert said.severity == "warning"
    assert "2 images are like this" in said.message
    assert report.usable
