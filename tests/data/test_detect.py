from __future__ import annotations

import pytest

from flexdetr.data.dataset import UnrecognisedDataError
from flexdetr.data.detect import read


def test_unrecognised_folder_says_what_was_looked_for(tmp_path, write_image):
    write_image(tmp_path / "holiday.jpg")
    with pytest.raises(UnrecognisedDataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    for word in (
        "COCO",
        "instances_*.json",
        "VOC",
        "Annotations/*.xml",
        "YOLO",
        "data.yaml",
        "Found: holiday.jpg",
    ):
        assert word in message


def test_a_data_set_further_down_is_named(tmp_path):
    (tmp_path / "images" / "set1").mkdir(parents=True)
    (tmp_path / "images" / "set1" / "data.yaml").write_text("train: train\nnames: [bolt]\n")
    with pytest.raises(UnrecognisedDataError, match=r"There is images.set1.data\.yaml: .* name .*set1\."):
        read(tmp_path)


def test_labels_without_names_are_pointed_at(shared_data):
    with pytest.raises(
        UnrecognisedDataError, match=r"3 txt files; if they are YOLO labels, write a data\.yaml"
    ):
        read(shared_data / "awkward" / "yolo_mixed_polygons")


def test_missing_folder_and_foreign_file(tmp_path):
    with pytest.raises(UnrecognisedDataError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UnrecognisedDataError, match=r"notes\.json is not COCO JSON"):
        read(tmp_path / "notes.json")


def test_missing_validation_split_is_cut_by_the_seed_and_said(tmp_path, write_yolo):
    names = {f"{number:02}.png": [] for number in range(20)}
    root = write_yolo(tmp_path, {"train": names}, "train: train/images\nnames: [cat]\n")

    def validation(seed):
        return [record.image_id for record in read(root, val_fraction=0.2, seed=seed).splits["val"]]

    assert len(validation(0)) == 4
    assert validation(0) == validation(0) != validation(1)
    dataset = read(root, val_fraction=0.2)
    assert {record.image_id for record in dataset.splits["train"]}.isdisjoint(validation(0))
    assert "4 of 20 training images were taken for it (seed 0)" in dataset.notes[-1]


def test_of_two_formats_the_reading_is_noted(tmp_path, write_coco, write_voc):
    write_coco(tmp_path / "train" / "_annotations.coco.json", {"a.png": []}, {1: "c"})
    write_voc(tmp_path / "train" / "a.xml", [])
    dataset = read(tmp_path)
    assert dataset.format == "coco"
    assert any("read as COCO" in note and "VOC" in note for note in dataset.notes)
