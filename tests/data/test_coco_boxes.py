from __future__ import annotations

import math

import pytest

from flexdetr.data.check import check, usable_records
from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read

BOX = [20, 16, 40, 32]
XYXY = [20, 16, 60, 48]
RUNS = [20 * 64 + 16, *([32, 32] * 39), 32, 64 * 96 - 59 * 64 - 48]


@pytest.fixture
def write(tmp_path, write_image, write_coco):
    """Four pictures of 96x64; ``write(annotations, images=..., categories=...)``."""

    def made(annotations, **changes):
        images = [{"id": n, "file_name": f"{n}.png", "width": 96, "height": 64} for n in range(4)]
        document = {"images": images, "annotations": annotations, **changes}
        path = write_coco(tmp_path / "annotations" / "instances_train.json", {}, {1: "bolt"}, **document)
        for number in range(4):
            write_image(tmp_path / "images" / f"{number}.png", 96, 64, seed=number)
        return path

    return made


def _annotation(number, **changes):
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "bbox": BOX,
        "area": 1280,
        "iscrowd": 0,
        **changes,
    }


def _boxes(root):
    dataset = read(root)
    records = [record for split in dataset.splits.values() for record in split]
    return {record.image_id: record.boxes_xyxy.tolist() for record in records}


@pytest.mark.parametrize("form", [int, float, str, lambda number: f"{number}.0"])
@pytest.mark.parametrize("where", ["images", "annotations", "category_id", "categories"])
def test_a_number_and_its_text_are_one_id(tmp_path, write, form, where):
    images = [{"id": n, "file_name": f"{n}.png", "width": 96.0, "height": "64"} for n in range(4)]
    annotations = [_annotation(n) for n in range(4)]
    categories = [{"id": 1, "name": "bolt"}]
    rows, key = {
        "images": (images, "id"),
        "annotations": (annotations, "image_id"),
        "category_id": (annotations, "category_id"),
        "categories": (categories, "id"),
    }[where]
    for row in rows:
        row[key] = form(row[key])
    write(annotations, images=images, categories=categories)
    assert _boxes(tmp_path) == {number: [XYXY] for number in range(4)}
    assert check(tmp_path).usable


@pytest.mark.parametrize("width", ["96.0", "x", math.nan, math.inf, None, 0, -5, [96], {}, True, "1e999"])
def test_odd_widths_are_read_from_the_picture(tmp_path, write, width):
    images = [{"id": n, "file_name": f"{n}.png", "width": width, "height": 64} for n in range(4)]
    write([_annotation(n) for n in range(4)], images=images)
    assert _boxes(tmp_path) == {number: [XYXY] for number in range(4)}
    (said,) = [one for one in read(tmp_path).defects if "4 images state" in one.message] or [None]
    assert (said is None) == (width == "96.0")


ODD = (None, "x", [], [1], {}, {"id": 1}, 5, True, math.nan)


@pytest.mark.parametrize("entry", ODD)
@pytest.mark.parametrize("key", ["images", "annotations"])
def test_entries_that_are_no_objects_are_errors_with_their_line(tmp_path, write, key, entry):
    rows = [_annotation(n) for n in range(4)]
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(4)]
    (rows if key == "annotations" else images).insert(2, entry)
    path = write(rows, images=images)
    error = read(tmp_path).errors[0]
    assert error.file == path
    assert error.line is not None


@pytest.mark.parametrize("value", [value for value in ODD if value not in (5, True)])
@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "iscrowd"])
def test_odd_values_are_errors_with_their_line(tmp_path, write, key, value):
    path = write([_annotation(n, **({key: value} if n == 2 else {})) for n in range(4)])
    errors = read(tmp_path).errors
    if (key, value) in (
        ("iscrowd", None),
        ("image_id", "x"),
    ):  # no flag, and the id of an image that is not there
        assert not errors
        return
    (error,) = errors
    lines = path.read_text().splitlines()
    assert lines[error.line].strip() == '"id": 2,'
    assert error.message.startswith("annotation 2: ")
    with pytest.raises(DataError, match="annotation 2"):
        usable_records(read(tmp_path), "train", skip_bad=False)


@pytest.mark.parametrize("area", [None, "x", -1, math.nan, 1e308, [1], "1280"])
def test_odd_areas_are_those_of_the_box(tmp_path, write, area):
    write([_annotation(n, area=area) for n in range(4)])
    assert {record.areas[0] for record in read(tmp_path).splits["train"]} == {1280}


def test_numbers_as_text(tmp_path, write):
    write([_annotation(n, bbox=[str(value) for value in BOX]) for n in range(4)])
    assert _boxes(tmp_path) == {number: [XYXY] for number in range(4)}


@pytest.mark.parametrize("value", ["0", 0, 0.0, False, None, "false"])
def test_text_of_zero_is_no_crowd(tmp_path, write, value):
    write([_annotation(n, iscrowd=value) for n in range(4)])
    assert not any(record.iscrowd.any() for record in read(tmp_path).splits["train"])
    assert not check(tmp_path).defects


@pytest.mark.parametrize("value", [1, "1", True])
def test_where_everything_is_a_crowd_it_is_said(tmp_path, write, value):
    write([_annotation(n, iscrowd=value) for n in range(4)])
    (said,) = check(tmp_path).defects
    assert said.severity == "warning"
    assert "4 of 4 boxes are crowd regions" in said.message
    assert 'set "iscrowd" to 0' in said.message


@pytest.mark.parametrize(
    "segmentation",
    [
        [[20, 16, 60, 16, 60, 48, 20, 48]],
        [20, 16, 60, 16, 60, 48, 20, 48],
        {"size": [64, 96], "counts": RUNS},
    ],
)
@pytest.mark.parametrize("bbox", [None, []])
def test_the_box_around_an_outline(tmp_path, write, segmentation, bbox):
    write([_annotation(n, bbox=bbox, segmentation=segmentation) for n in range(4)])
    assert _boxes(tmp_path) == {number: [XYXY] for number in range(4)}
    assert any("4 annotations of instances_train.json have no bbox" in note for note in read(tmp_path).notes)
    assert check(tmp_path).usable


@pytest.mark.parametrize("count", [1, 4])
def test_boxes_that_look_like_fractions_are_errors(tmp_path, write, count):
    fractions = [0.2083, 0.25, 0.4167, 0.5]
    path = write([_annotation(n, bbox=fractions if n < count else BOX, area=0.2) for n in range(4)])
    report = check(tmp_path)
    assert not report.usable
    error = next(one for one in report.defects if one.file == path)
    assert f"{count} of 4 boxes look like fractions" in error.message
    with pytest.raises(DataError, match="look like fractions"):
        usable_records(report.dataset, "train", skip_bad=False)


def test_the_first_pixel_is_no_fraction(tmp_path, write):
    write([_annotation(n, bbox=[0, 0, 1, 1]) for n in range(4)])
    assert check(tmp_path).usable


def test_a_split_that_loses_most_of_its_labels_is_not_usable(tmp_path, write):
    write([_annotation(n, image_id=n if n == 0 else f"photo-{n}") for n in range(4)])
    report = check(tmp_path)
    assert not report.usable
    assert any("of 4 labels of the train split 1 can be used" in one.message for one in report.defects)
    with pytest.raises(
        DataError, match=r"of 4 labels of the train split 1 can be used[\s\S]*unknown image 'photo-1'"
    ):
        usable_records(report.dataset, "train", skip_bad=False)
    assert usable_records(report.dataset, "train", skip_bad=True)


def test_a_split_that_keeps_no_label_is_refused_though_bad_files_are_skipped(tmp_path, write):
    write([_annotation(n, image_id=f"photo-{n}") for n in range(4)])
    with pytest.raises(DataError, match="of 4 labels of the train split none can be used"):
        usable_records(read(tmp_path), "train", skip_bad=True)
