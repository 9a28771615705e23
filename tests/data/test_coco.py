from __future__ import annotations

import json

import pytest

from flexdetr.data.coco import split_of
from flexdetr.data.dataset import DataError, to_coco
from flexdetr.data.detect import read


def _ids(dataset, split="train"):
    """{image file: category ids of its boxes}, by the head's indices and back."""
    classes = dataset.classes
    return {
        record.path.name: [classes.ids[label] for label in record.labels] for record in dataset.splits[split]
    }


def test_chess(shared_data):
    dataset = read(shared_data / "chess")
    assert dataset.format == "coco"
    assert dataset.classes.ids == tuple(range(1, 14))
    assert "pieces" not in dataset.classes.names
    assert any("'pieces' is an unused super-category" in note for note in dataset.notes)
    counted = {name: (len(records), sum(map(len, records))) for name, records in dataset.splits.items()}
    assert counted == {"train": (202, 2108), "val": (58, 386), "test": (29, 376)}
    assert sum(not len(record) for record in dataset.splits["test"]) == 1
    (defect,) = dataset.defects
    assert "repeats annotation 1324" in defect.message
    document = json.loads((shared_data / "chess" / "test" / "_annotations.coco.json").read_text())
    written = to_coco(dataset.splits["test"], dataset.classes)
    expected = sorted((row["image_id"], row["category_id"], row["area"]) for row in document["annotations"])
    assert sorted((row["image_id"], row["category_id"], row["area"]) for row in written["annotations"]) == [
        (image, category, pytest.approx(area, rel=1e-6)) for image, category, area in expected
    ]


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (2, 7, 90), (5, 1, 3)])
def test_ids_come_back_as_they_were(tmp_path, write_coco, numbers):
    names = dict(zip(numbers, ("ape", "bee", "cow"), strict=True))
    boxes = [(number, 1.5, 2, 10, 11) for number in numbers]
    write_coco(tmp_path / "annotations.json", {"a.png": boxes, "b.png": boxes[1:], "c.png": []}, names)
    dataset = read(tmp_path, val_fraction=0.1)
    assert {
        number: name for name, number in zip(dataset.classes.names, dataset.classes.ids, strict=True)
    } == names
    assert dataset.classes.ids == tuple(sorted(numbers))
    together = _ids(dataset) | _ids(dataset, "val")
    assert together == {"a.png": list(numbers), "b.png": list(numbers[1:]), "c.png": []}
    everything = (*dataset.splits["train"], *dataset.splits["val"])
    written = to_coco(everything, dataset.classes)
    assert {(row["image_id"], row["category_id"]) for row in written["annotations"]} == {
        *((100, number) for number in numbers),
        *((101, number) for number in numbers[1:]),
    }
    assert all(row["bbox"] == [1.5, 2, 10, 11] for row in written["annotations"])


def test_only_an_unused_super_category_is_left_out(tmp_path, write_coco):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    path = write_coco(tmp_path / "a.json", {"a.png": [(1, 0, 0, 5, 5)]}, {}, categories=categories)
    dataset = read(path)
    assert dataset.classes.names == ("cat", "dog")
    assert any("'dog' has no boxes" in note for note in dataset.notes)
    write_coco(tmp_path / "a.json", {"a.png": [(0, 0, 0, 5, 5)]}, {}, categories=categories)
    assert read(path).classes.names == ("animals", "cat", "dog")


def test_official_layout_and_a_file_inside_it(tmp_path, write_coco, write_image):
    for split, seed in (("train2017", 1), ("val2017", 2)):
        path = write_coco(
            tmp_path / "annotations" / f"instances_{split}.json", {"a.png": [(3, 1, 1, 5, 5)]}, {3: "c"}
        )
        (path.parent / "a.png").unlink()
        write_image(tmp_path / split / "a.png", seed=seed)
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    for given in (tmp_path, tmp_path / "train2017" / "a.png"):
        dataset = read(given)
        assert [records[0].path.parent.name for records in dataset.splits.values()] == [
            "train2017",
            "val2017",
        ]
        assert dataset.splits.keys() == {"train", "val"}
    named = read(tmp_path / "annotations" / "instances_val2017.json")
    assert {name: len(records) for name, records in named.splits.items()} == {"val": 1}


def test_paths_of_another_machine(tmp_path, write_coco):
    path = write_coco(tmp_path / "labels.json", {"a.png": []}, {1: "c"})
    path.write_text(path.read_text().replace('"a.png"', json.dumps("C:\\work\\images\\a.png")))
    assert read(path).splits["train"][0].path == tmp_path / "a.png"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-8-sig"])
def test_encodings(tmp_path, write_coco, encoding):
    path = write_coco(
        tmp_path / "train" / "_annotations.coco.json", {"a.png": [(1, 1, 1, 5, 5)]}, {1: "Zürich"}
    )
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert read(tmp_path).classes.names == (json.loads('"Z\\u00fcrich"'),)


def test_crowds_and_areas_are_kept(tmp_path, write_coco):
    annotations = [
        {"id": 1, "image_id": 100, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 44.5, "iscrowd": 1},
        {"id": 2, "image_id": 100, "category_id": 1, "bbox": [3, 3, 9, 9]},
        {"id": 3, "image_id": 100, "category_id": 1, "bbox": [5, 5, 9, 9], "ignore": 1},
    ]
    path = write_coco(tmp_path / "a.json", {"a.png": []}, {1: "c"}, annotations=annotations)
    (record,) = read(path).splits["train"]
    assert record.iscrowd.tolist() == [True, False, True]  # what is to be ignored is passed over like a crowd
    assert record.areas.tolist() == [44.5, 81, 81]


def test_unknown_category_is_refused_with_line_and_range(tmp_path, write_coco):
    images = {"a.png": [(1, 0, 0, 5, 5)], "b.png": [(4, 0, 0, 5, 5)]}
    path = write_coco(tmp_path / "a.json", images, {1: "x", 2: "y", 3: "z"})
    dataset = read(path)
    (error,) = dataset.errors
    lines = path.read_text().splitlines()
    assert error.file == path
    assert lines[error.line - 1].strip() == "{"
    assert lines[error.line].strip() == '"id": 2,'
    assert "category id 4" in error.message
    assert "1 to 3" in error.message
    assert _ids(dataset) == {"a.png": [1]}


@pytest.mark.parametrize("bbox", [[1, 2, 3], None, [1, 2, "x", 4], [[1, 2, 3, 4]]])
def test_malformed_boxes_are_errors(tmp_path, write_coco, bbox):
    annotations = [{"id": 9, "image_id": 100, "category_id": 1, "bbox": bbox}]
    (error,) = read(write_coco(tmp_path / "a.json", {"a.png": []}, {1: "c"}, annotations=annotations)).errors
    assert "annotation 9: bbox must be [x, y, width, height]" in error.message
    assert error.line is not None


def test_boxes_of_unknown_images_and_images_without_names(tmp_path, write_coco):
    annotations = [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    images = [{"id": 1}, {"id": 2, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]
    dataset = read(
        write_coco(tmp_path / "a.json", {"a.png": []}, {1: "c"}, annotations=annotations, images=images)
    )
    assert len(dataset.errors) == 2
    assert any("unknown image 5" in defect.message for defect in dataset.defects)
    assert len(dataset.splits["train"]) == 1


def test_unreadable_json_in_a_conventional_place_is_a_defect(tmp_path, write_coco):
    write_coco(tmp_path / "train" / "_annotations.coco.json", {"a.png": []}, {1: "c"})
    broken = tmp_path / "valid" / "_annotations.coco.json"
    broken.parent.mkdir()
    broken.write_text('{"images": [\n{"id": }')
    (error,) = read(tmp_path).errors
    assert (error.file, error.line) == (broken, 2)
    broken.write_text("[]")
    assert "not a COCO annotation" in read(tmp_path).errors[0].message


def test_splits_must_share_their_categories(tmp_path, write_coco):
    write_coco(tmp_path / "train" / "_annotations.coco.json", {"a.png": []}, {1: "c"})
    write_coco(tmp_path / "valid" / "_annotations.coco.json", {"b.png": []}, {1: "d"})
    with pytest.raises(DataError, match=r"category 1 is 'd', in another split it is 'c'"):
        read(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path, write_coco):
    write_coco(tmp_path / "one.json", {"a.png": []}, {1: "c"})
    write_coco(tmp_path / "two.json", {"b.png": []}, {1: "c"})
    with pytest.raises(DataError, match=r"one\.json and .*two\.json both look like the train split"):
        read(tmp_path)


def test_two_categories_of_one_name_are_refused(tmp_path, write_coco):
    path = write_coco(tmp_path / "one.json", {"a.png": []}, {1: "c", 2: "c"})
    with pytest.raises(DataError, match="'c' occurs more than once"):
        read(path)


def test_split_words(tmp_path):
    for name, split in {
        "instances_train2017": "train",
        "instances_val": "val",
        "test_annotations": "test",
        "latest": "train",
        "dev": "val",
    }.items():
        assert split_of(tmp_path / f"{name}.json", tmp_path) == split
    assert split_of(tmp_path / "valid" / "labels.json", tmp_path) == "val"
