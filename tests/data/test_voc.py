from __future__ import annotations

import pytest

from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read
from flexdetr.data.voc_xml import XmlError, parse_xml


def test_blood_cells(shared_data):
    dataset = read(shared_data / "bccd")
    assert dataset.format == "voc"
    assert dataset.classes.names == ("Platelets", "RBC", "WBC")
    assert dataset.classes.ids == (0, 1, 2)
    assert {name: len(records) for name, records in dataset.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    counts = [0, 0, 0]
    for records in dataset.splits.values():
        for record in records:
            assert (record.width, record.height) == (640, 480)
            assert (record.boxes_xyxy >= 0).all()
            for label in record.labels:
                counts[label] += 1
    assert counts == [361, 4155 - 2, 372]
    empty = [defect for defect in dataset.defects if "zero area" in defect.message]
    assert {(defect.file.name, defect.line) for defect in empty} == {
        ("BloodImage_00338.xml", 163),
        ("BloodImage_00343.xml", 55),
    }
    assert sum("nearly the same" in defect.message for defect in dataset.defects) == 7
    assert not dataset.errors


def test_coordinates_start_at_one(tmp_path, write_image, write_voc):
    write_image(tmp_path / "a.png")
    write_voc(tmp_path / "a.xml", [("cat", 1, 2, 40, 30), ("dog", 5, 5, 5, 9)])
    dataset = read(tmp_path)
    assert dataset.splits["train"][0].boxes_xyxy.tolist() == [[0, 1, 40, 30]]
    assert dataset.classes.names == ("cat", "dog")


def test_a_zero_makes_the_whole_set_start_at_zero(tmp_path, write_image, write_voc):
    for name, first in (("a", 0), ("b", 7)):
        write_image(tmp_path / f"{name}.png", seed=first)
        write_voc(tmp_path / f"{name}.xml", [("cat", first, 2, 20, 30)])
    dataset = read(tmp_path)
    boxes = {
        record.image_id: record.boxes_xyxy.tolist()
        for records in dataset.splits.values()
        for record in records
    }
    assert boxes == {"a": [[0, 2, 20, 30]], "b": [[7, 2, 20, 30]]}
    assert any("starting at 0" in note for note in dataset.notes)


def test_flat_folder_with_yolo_twins_and_a_missing_file(shared_data):
    dataset = read(shared_data / "awkward" / "json_utf16")
    (record,) = dataset.splits["train"]
    assert record.boxes_xyxy[0].tolist() == [510, 353, 548, 416]
    assert dataset.classes.names == ("Dolly", "Wheel")
    assert {defect.severity for defect in dataset.defects} == {"warning"}
    (image,) = [defect for defect in dataset.defects if "image is in no split" in defect.message]
    assert image.file.name == "training_images_take_7_279.png"


def test_zero_area_boxes_are_listed_with_their_lines(shared_data):
    dataset = read(shared_data / "awkward" / "voc_zero_area")
    assert sorted((defect.file.stem, defect.line) for defect in dataset.defects) == [
        ("BloodImage_00338", 163),
        ("BloodImage_00343", 55),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(tmp_path, write_image, write_voc, encoding):
    write_image(tmp_path / "a.png")
    write_voc(tmp_path / "a.xml", [("Straßenbahn", 1, 2, 20, 30)], encoding=encoding)
    assert read(tmp_path).classes.names == ("Straßenbahn",)


def test_devkit_lists_choose_and_trainval_serves_as_train(tmp_path, write_image, write_voc):
    for name in "abcde":
        write_image(tmp_path / "JPEGImages" / f"{name}.jpg", seed=ord(name))
        write_voc(tmp_path / "Annotations" / f"{name}.xml", [("cat", 1, 2, 20, 30)], size=None)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("a\nb  1\nc\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "cat_train.txt").write_text("e 1\n")
    dataset = read(tmp_path)
    ids = {split: [record.image_id for record in records] for split, records in dataset.splits.items()}
    assert ids == {"train": ["a", "b"], "val": ["c"]}
    assert any("trainval" in note for note in dataset.notes)
    assert any("2 XML files are in no list" in note for note in dataset.notes)
    assert read(tmp_path / "Annotations" / "a.xml").splits.keys() == {"train", "val"}
    assert read(lists / "val.txt").splits.keys() == {"train", "val"}


def test_split_folders_and_images_without_objects(tmp_path, write_image, write_voc):
    for split in ("train", "valid"):
        write_image(tmp_path / split / "x.png", seed=len(split))
        write_voc(tmp_path / split / "x.xml", [] if split == "valid" else [("cat", 1, 2, 20, 30)])
    dataset = read(tmp_path)
    assert len(dataset.splits["train"][0]) == 1
    assert dataset.splits["val"][0].boxes_xyxy.shape == (0, 4)
    assert dataset.splits["train"][0].path == tmp_path / "train" / "x.png"  # each split has an x
    assert dataset.splits["val"][0].path == tmp_path / "valid" / "x.png"


def test_split_folders_with_subfolders(tmp_path, write_image, write_voc):
    for split in ("train", "val"):
        write_image(tmp_path / split / "images" / "x.png", seed=len(split))
        write_voc(tmp_path / split / "Annotations" / "x.xml", [("cat", 1, 2, 20, 30)])
    dataset = read(tmp_path)
    assert [records[0].path.parent.parent.name for records in dataset.splits.values()] == ["train", "val"]


def test_class_file_gives_the_order_and_refuses_other_names(tmp_path, write_image, write_voc):
    for name, label in (("a", "dog"), ("b", "doge")):
        write_image(tmp_path / f"{name}.png", seed=ord(name))
        write_voc(tmp_path / f"{name}.xml", [(label, 1, 2, 20, 30)])
    (tmp_path / "classes.txt").write_text("zebra\ndog\n")
    dataset = read(tmp_path)
    assert dataset.classes.names == ("zebra", "dog")
    (error,) = dataset.errors
    assert (error.file.name, error.line) == ("b.xml", 7)
    assert "did you mean 'dog'" in error.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("<annotation>\n<object>", 2, "not well-formed XML"),
        ("<html/>", 1, "expected <annotation>"),
        ("<annotation>\n\n<object><name>a</name></object></annotation>", 3, "needs a <name> and a <bndbox>"),
        (
            "<annotation><object><name>a</name>\n<bndbox><xmin>x</xmin></bndbox></object></annotation>",
            2,
            "'x'",
        ),
        ('<!DOCTYPE a [\n<!ENTITY b "c">]><annotation>&b;</annotation>', 2, "entities"),
    ],
)
def test_unreadable_xml_is_an_error_with_its_line(tmp_path, write_image, write_voc, text, line, message):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", seed=ord(name))
    write_voc(tmp_path / "a.xml", [("cat", 1, 2, 20, 30)])
    (tmp_path / "b.xml").write_text(text)
    dataset = read(tmp_path)
    (error,) = dataset.errors
    assert (error.file, error.line) == (tmp_path / "b.xml", line)
    assert message in error.message
    assert [record.image_id for record in dataset.splits["train"]] == ["a"]


def test_listed_image_without_any_file_is_an_error(tmp_path, write_image, write_voc):
    write_image(tmp_path / "JPEGImages" / "a.jpg")
    write_voc(tmp_path / "Annotations" / "a.xml", [("cat", 1, 2, 20, 30)])
    write_voc(tmp_path / "Annotations" / "b.xml", [("cat", 1, 2, 20, 30)])
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    messages = {defect.file.name: defect.message for defect in read(tmp_path).errors}
    assert "'b.png' was not found" in messages["b.xml"]
    assert "neither XML file nor image" in messages["c.xml"]


def test_difficult_objects_are_kept_and_noted(tmp_path, write_image, write_voc):
    write_image(tmp_path / "a.png")
    path = write_voc(tmp_path / "a.xml", [("cat", 1, 2, 20, 30)])
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    dataset = read(tmp_path)
    assert len(dataset.splits["train"][0]) == 1
    assert any("1 objects are marked difficult" in note for note in dataset.notes)


def test_nested_text_and_lines():
    node = parse_xml("<a>\n <b>x</b>\n <c/>\n</a>")
    assert [(child.tag, child.line) for child in node.children] == [("b", 2), ("c", 3)]
    assert node.value("b") == "x"
    assert node.value("d") is None
    with pytest.raises(XmlError):
        parse_xml("")


def test_class_file_that_is_no_text_is_refused(tmp_path, write_image, write_voc):
    write_image(tmp_path / "a.png")
    write_voc(tmp_path / "a.xml", [("cat", 1, 2, 20, 30)])
    (tmp_path / "labels.txt").write_bytes(b"\xff\x80\x81z")
    with pytest.raises(DataError, match=r"labels\.txt"):
        read(tmp_path)
