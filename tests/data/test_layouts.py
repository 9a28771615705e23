"""Layouts and writings of common tools: what lies on the disk, and the images and boxes that must come of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from flexdetr.data.check import check, usable_records
from flexdetr.data.dataset import DataError, UnrecognisedDataError, fingerprint
from flexdetr.data.detect import read

LINE = "0 0.4167 0.5 0.4167 0.5"
BOX = [20, 16, 60, 48]
XML = (
    "<annotation><filename>{}</filename><size><width>96</width><height>64</height><depth>3</depth></size><object>"
    "<name>bolt</name><difficult>0</difficult><bndbox><xmin>21</xmin><ymin>17</ymin><xmax>60</xmax><ymax>48</ymax>"
    "</bndbox></object></annotation>"
)


@pytest.fixture
def put(tmp_path) -> Callable[[dict[str, str | None]], Path]:
    """``put({"images/a.jpg": None, "data.yaml": "..."})`` writes texts, and for None a picture of its own."""

    def write(files: dict[str, str | None]) -> Path:
        for number, (name, text) in enumerate(files.items()):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                with path.open("wb") as file:  # the content decides, not the suffix
                    Image.new("RGB", (96, 64), (number, 2 * number, 200)).save(file, "PNG")
            else:
                path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def coco(names: list[str], boxes: bool = True) -> str:
    annotation = {"category_id": 1, "bbox": [20, 16, 40, 32], "area": 1280, "iscrowd": 0}
    return json.dumps(
        {
            "images": [
                {"id": n, "file_name": name, "width": 96, "height": 64} for n, name in enumerate(names)
            ],
            "annotations": [
                {"id": n, "image_id": n, **annotation} for n in range(len(names) if boxes else 0)
            ],
            "categories": [{"id": 1, "name": "bolt"}],
        },
        indent=1,
    )


def found(dataset) -> dict[str, list[list[int]]]:
    """{image below the root: its boxes}, over all splits."""
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    return {
        Path(os.path.relpath(record.path, root)).as_posix(): [
            [round(v) for v in box] for box in record.boxes_xyxy.tolist()
        ]
        for records in dataset.splits.values()
        for record in records
    }


def said(dataset) -> str:
    return "\n".join((*dataset.notes, *map(str, dataset.defects)))


YOLO = "train: images/train\nval: images/val\nnames:\n  0: bolt\n"


def yolo(line: str = LINE) -> dict[str, str | None]:
    files: dict[str, str | None] = {"data.yaml": YOLO}
    for split in ("train", "val"):
        for number in range(2):
            files |= {
                f"images/{split}/{split}{number}.jpg": None,
                f"labels/{split}/{split}{number}.txt": line,
            }
    return files


YOLO_IMAGES = {
    f"images/{split}/{split}{number}.jpg": [BOX] for split in ("train", "val") for number in range(2)
}


def test_fiftyone_keeps_images_in_a_folder_called_data(put):
    root = put({"data/a.jpg": None, "data/b.jpg": None, "labels.json": coco(["a.jpg", "b.jpg"])})
    assert found(read(root)) == {"data/a.jpg": [BOX], "data/b.jpg": [BOX]}
    (root / "labels.json").unlink()
    put({f"labels/{name}.xml": XML.format(f"{name}.jpg") for name in "ab"})
    dataset = read(root)
    assert dataset.format == "voc"
    assert found(dataset) == {"data/a.jpg": [BOX], "data/b.jpg": [BOX]}


def test_fiftyone_splits(put):
    files: dict[str, str | None] = {}
    for split in ("train", "validation"):
        files |= {f"{split}/data/a.jpg": None, f"{split}/labels.json": coco(["a.jpg"])}
    dataset = read(put(files))
    assert {split: records[0].path.parts[-3] for split, records in dataset.splits.items()} == {
        "train": "train",
        "val": "validation",
    }


def test_the_named_yaml_is_read(put):
    files: dict[str, str | None] = {"data.yaml": "train: images\nval: images\nnames: [other]\n"}
    for number in range(4):
        files |= {f"images/i{number}.jpg": None, f"labels/i{number}.txt": LINE}
    for fold in range(2):
        names = [
            [f"./images/i{n}.jpg" for n in range(4) if n % 2 == (fold + part + 1) % 2] for part in range(2)
        ]
        files |= {
            f"fold{fold}.yaml": f"path: /home/me\ntrain: train{fold}.txt\nval: val{fold}.txt\nnames:\n  0: bolt\n",
            f"train{fold}.txt": "\n".join(names[0]),
            f"val{fold}.txt": "\n".join(names[1]),
        }
    root = put(files)
    dataset = read(root / "fold1.yaml")
    assert dataset.classes.names == ("bolt",)
    ids = {split: [record.image_id for record in records] for split, records in dataset.splits.items()}
    assert ids == {"train": ["i0", "i2"], "val": ["i1", "i3"]}
    assert dataset.root == root / "fold1.yaml"  # --resume reads it again
    whole = read(root)
    assert whole.classes.names == ("other",)
    assert "2 YAML files were not read: fold0.yaml, fold1.yaml" in said(whole)
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"several descriptions.*fold0\.yaml, fold1\.yaml; name the one"):
        read(root)


def test_the_named_json_is_read_and_nothing_else(put):
    root = put(
        {
            **{f"images/i{n}.jpg": None for n in range(3)},
            "annotations/instances_train.json": coco([f"i{n}.jpg" for n in range(3)]),
            "annotations/instances_train_small.json": coco(["i0.jpg"]),
            "annotations/instances_val.json": coco(["i1.jpg"]),
        }
    )
    named = read(root / "annotations" / "instances_train_small.json")
    assert {split: len(records) for split, records in named.splits.items()} == {"train": 1}
    assert [len(record) for record in named.splits["train"]] == [1]
    assert read(root / "annotations" / "instances_val.json").splits.keys() == {"val"}
    with pytest.raises(DataError, match="both look like the train split"):
        read(root)


@pytest.mark.parametrize(
    "written",
    ["cam{}\\0001.jpg", "images\\cam{}\\0001.jpg", "D:\\x\\cam{}\\0001.jpg", "/home/a/b/cam{}/0001.jpg",
     "./cam{}/0001.JPG", "file:///data/cam{}/0001.jpg", "https://example.org/x/cam{}/0001.jpg?v=1",
     "/data/local-files/?d=x/cam{}/0001.jpg", "cam{}%2F0001.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [True, False])
def test_the_longest_end_of_a_path_counts(put, written, beside):
    names = [written.format(1), written.format(2)]
    files: dict[str, str | None] = {"images/cam1/0001.jpg": None, "images/cam2/0001.jpg": None}
    if beside:  # a picture of the same name that is not meant
        files["images/0001.jpg"] = None
    root = put({**files, "annotations/instances_train.json": coco(names)})
    dataset = read(root)
    by_id = {
        record.image_id: record.path.parent.name for records in dataset.splits.values() for record in records
    }
    assert by_id == {0: "cam1", 1: "cam2"}
    assert ("images/0001.jpg" in said(dataset)) == beside


def test_names_that_differ_in_case_and_in_how_accents_are_composed(put):
    root = put(
        {
            "images/A.JPG": None,
            "images/gro\u0308\u00dfe.jpg": None,
            "a.json": coco(["a.jpg", "Gr\u00f6\u00dfe.JPG"]),
        }
    )
    assert len(found(read(root))) == 2


def test_what_may_be_several_pictures_or_none_is_refused_with_what_was_written(put):
    names = ["0001.jpg", "cam9\\0002.jpg", "cam1/0003.jpg", "cam2/0003.jpg"]
    root = put({"cam1/0001.jpg": None, "cam2/0001.jpg": None, "x/0003.jpg": None, "a.json": coco(names)})
    dataset = read(root)
    assert not any(dataset.splits.values())
    first, second, third, fourth = dataset.errors
    assert "'0001.jpg' may be cam1/0001.jpg or cam2/0001.jpg" in first.message
    assert "'cam9\\\\0002.jpg' was not found" in second.message
    assert str(root / "images") in second.message
    for error in (third, fourth):
        assert "'cam1/0003.jpg' and 'cam2/0003.jpg' lead to one picture" in error.message
    assert all(error.file == root / "a.json" and error.line for error in dataset.errors)


def test_the_picture_of_another_split_is_none_of_this_one(put):
    root = put(
        {
            "train/a.jpg": None,
            "valid/a.jpg": None,
            "train/_annotations.coco.json": coco(["a.jpg", "test/a.jpg"]),
        }
    )
    dataset = read(root)
    assert found(dataset) == {"train/a.jpg": [BOX]}
    assert "'test/a.jpg' was not found" in said(dataset)


@pytest.mark.parametrize(
    "hidden",
    ["images/train/._train0.jpg", "images/train/.ipynb_checkpoints/train0-checkpoint.jpg",
     "__MACOSX/images/train/._a.jpg",
     "images/train/__MACOSX/b.jpg", "images/train/@eaDir/c.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["yolo", "coco", "voc"])
def test_hidden_and_system_files_are_passed_over(put, form, hidden):
    files = yolo()
    if form == "coco":
        names = [name for name in files if name.endswith(".jpg")]
        files = dict.fromkeys(names) | {"instances_train.json": coco(names), "._instances_train.json": "\x00"}
    elif form == "voc":
        names = [name for name in files if name.endswith(".jpg")]
        files = dict.fromkeys(names)
        files |= {f"{name[:-4]}.xml": XML.format(Path(name).name) for name in names}
        files |= {"images/train/._train0.xml": "Mac OS X"}
    root = put({**files, hidden: "no picture"})
    dataset = read(root)
    assert found(dataset) == YOLO_IMAGES
    assert check(root).usable


def test_linked_folders_are_read_and_loops_end(put):
    root = put({**yolo(), "store/cam9/x.jpg": None, "labels/train/cam9/x.txt": LINE})
    (root / "images" / "train" / "cam9").symlink_to(Path("..") / ".." / "store" / "cam9")
    (root / "store" / "cam9" / "loop").symlink_to(Path(".."))
    dataset = read(root)
    assert found(dataset) == {**YOLO_IMAGES, "images/train/cam9/x.jpg": [BOX]}
    assert "no split" not in said(dataset)


def test_formats_of_pillow_are_images_and_what_is_left_is_counted(put):
    files = yolo()
    kinds = ("avif", "jp2", "jpe", "mpo", "tga")
    for suffix in kinds:
        files |= {f"images/train/{suffix}.{suffix}": None, f"labels/train/{suffix}.txt": LINE}
    files |= {
        "images/train/z.dng": "raw",
        "images/train/y.DNG": "raw",
        "labels/train/gone.txt": LINE,
        "notes.xml": "<a/>",
    }
    dataset = read(put(files))
    assert found(dataset) == {**YOLO_IMAGES, **{f"images/train/{suffix}.{suffix}": [BOX] for suffix in kinds}}
    text = said(dataset)
    assert "1 label file belongs to no image: labels/train/gone.txt" in text
    assert "2 files of these kinds were not read: .dng (2)" in text
    assert "1 XML file was not read: notes.xml" in text


@pytest.mark.parametrize(
    ("entries", "image", "label"),
    [
        ("train: train\nval: val", "{0}/{0}{1}.jpg", "labels/{0}/{0}{1}.txt"),
        ("train: train\nval: val", "{0}/{0}{1}.jpg", "{0}/labels/{0}{1}.txt"),
        ("train: train\nval: val", "{0}/{0}{1}.jpg", "{0}/{0}{1}.TXT"),
        ("train: images/train\nval: images/val", "images/{0}/{0}{1}.jpg", "images/{0}/{0}{1}.txt"),
        (
            "train: images/images/train\nval: images/images/val",
            "images/images/{0}/{0}{1}.jpg",
            "images/labels/{0}/{0}{1}.txt",
        ),
        ("train: train/images\nval: val/images", "{0}/images/{0}{1}.jpg", "labels/{0}/{0}{1}.txt"),
        ("train: images/train\nval: images/val", "images/{0}/{0}{1}.jpg", "{0}/labels/{0}{1}.txt"),
        (
            "train: JPEGImages/train\nval: JPEGImages/val",
            "JPEGImages/{0}/{0}{1}.jpg",
            "labels/{0}/{0}{1}.txt",
        ),
        (
            "train: /content/ds/train/images\nval: C:\\x\\val\\images",
            "{0}/images/{0}{1}.jpg",
            "{0}/labels/{0}{1}.txt",
        ),
        ("train: ../train/images\nval: ../val/images", "{0}/images/{0}{1}.jpg", "{0}/labels/{0}{1}.txt"),
    ],
)
def test_label_files_are_found(put, entries, image, label):
    files: dict[str, str | None] = {"images/set1/data.yaml": f"{entries}\nnames: [bolt]\n"}
    for split in ("train", "val"):
        for number in range(2):
            files |= {
                f"images/set1/{image.format(split, number)}": None,
                f"images/set1/{label.format(split, number)}": LINE,
            }
    root = put(files) / "images" / "set1"
    dataset = read(root)
    assert len(found(dataset)) == 4
    assert set(map(str, found(dataset).values())) == {str([BOX])}
    assert not dataset.defects
    assert check(root).usable


def test_labels_that_belong_to_no_image_make_a_data_set_unusable(put):
    files = {name.replace("labels/", "texts/x/"): text for name, text in yolo().items()}
    report = check(put(files))
    assert not report.usable
    text = "\n".join(map(str, report.defects))
    assert "4 label files belong to no image: texts/x/train/train0.txt" in text
    with pytest.raises(
        DataError, match=r"4 labels are in label files that belong to no image[\s\S]*4 label files belong"
    ):
        usable_records(report.dataset, "train", skip_bad=False)


def test_labels_of_one_split_are_not_those_of_another(put):
    files = yolo()
    del files["labels/train/train0.txt"]
    files |= {"labels/val/train0.txt": LINE}
    dataset = read(put(files))
    assert found(dataset) == {**YOLO_IMAGES, "images/train/train0.jpg": []}
    assert "1 label file belongs to no image: labels/val/train0.txt" in said(dataset)


@pytest.mark.parametrize(
    ("shape", "line"),
    [("[2, 3]", f"{LINE} 0.3 0.3 1 0.5 0.6 1"), ("[2, 3]", f"{LINE} 0.3 0.3 2 0.5 0.6 2"),
     ("[2, 2]", f"{LINE} 0.3 0.3 0.5 0.6"),
     ("", f"{LINE} 0.3 0.3 2 0.5 0.6 0")],
)  # fmt: skip
def test_keypoints_follow_their_box(put, shape, line):
    files = yolo(line)
    files["data.yaml"] = YOLO + (f"kpt_shape: {shape}\n" if shape else "")
    dataset = read(put(files))
    assert found(dataset) == YOLO_IMAGES
    assert "4 label lines hold keypoints" in said(dataset)


@pytest.mark.parametrize("shape", ["5", "[2]", "[0, 3]", "[2, 7]", "[x, 3]", "[99999999999, 3]", "{a: 1}"])
def test_odd_shapes_of_keypoints_are_refused(put, shape):
    with pytest.raises(DataError, match="kpt_shape must be"):
        read(put({**yolo(), "data.yaml": f"{YOLO}kpt_shape: {shape}\n"}))


@pytest.mark.parametrize("columns", ["0.87", "5", "0.9 12"])
def test_further_columns_are_noted(put, columns):
    dataset = read(put(yolo(f"{LINE} {columns}")))
    assert found(dataset) == YOLO_IMAGES
    assert "4 label lines have further columns" in said(dataset)


def test_two_pictures_of_one_stem_are_told_apart(put):
    root = put({**yolo(), "images/val/val0.png": None})
    dataset = read(root)
    assert [record.image_id for record in dataset.splits["val"]] == [
        "images/val/val0.jpg",
        "images/val/val0.png",
        "val1",
    ]
    assert "val0.txt" in said(dataset)


def test_the_picture_that_an_xml_file_names_is_read(put):
    files: dict[str, str | None] = {}
    for number in range(3):
        files |= {f"{number}.jpg": None, f"{number}.png": None, f"{number}.xml": XML.format(f"{number}.jpg")}
    dataset = read(put(files))
    assert found(dataset) == {f"{number}.jpg": [BOX] for number in range(3)}
    assert "3 images are in no split, or without annotation: 0.png, 1.png, 2.png" in said(dataset)


def test_names_of_classes_are_as_written(put):
    names = ["yes", "no", "on", "2020-01-01", "1.0", "010", "1e3", "null", "~", "0x1F", "TRUE", "plus"]
    files = yolo()
    files["data.yaml"] = "train: images/train\nval: images/val\nnames: [" + ", ".join(names) + "]\n"
    assert read(put(files)).classes.names == tuple(names)
    mapping = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    (put({}) / "data.yaml").write_text(f"train: images/train\nval: images/val\ntest:\nnames:\n{mapping}\n")
    assert read(put({})).classes.names == tuple(names)


@pytest.mark.parametrize("prefix", ["data/", "/home/somebody/export/", "..\\", "C:\\x\\", "./"])
def test_lists_of_another_place(put, prefix):
    names = [f"images/train/f{number}.png" for number in range(3)]
    files: dict[str, str | None] = dict.fromkeys(names)
    files |= {f"labels/train/f{number}.txt": LINE for number in range(3)}
    files |= {
        "train.txt": "\n".join(prefix + name for name in names),
        "data.yaml": "path: .\ntrain: data/train.txt\nnames: [bolt]\n",
    }
    dataset = read(put(files))
    assert found(dataset) == {name: [BOX] for name in names}
    assert not dataset.defects


def test_an_entry_of_a_list_that_leads_nowhere_is_an_error_with_its_line(put):
    root = put({**yolo(), "list.txt": "images/train/train0.jpg\n\nimages/train/none.jpg\n"})
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [bolt]\n")
    (error,) = read(root).errors
    assert (error.file, error.line, error.split) == (root / "list.txt", 3, "train")
    assert "'images/train/none.jpg' was not found" in error.message


def test_images_that_are_named_twice_count_once(put):
    root = put(
        {
            **yolo(),
            "list.txt": "images/train/train0.jpg\n./images/train/train0.jpg\nimages/train/train1.jpg\n",
        }
    )
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [bolt]\n")
    dataset = read(root)
    assert [record.image_id for record in dataset.splits["train"]] == ["train0", "train1"]
    assert "1 images of the train split are named twice" in said(dataset)


def test_darknet(put):
    names = [f"obj_train_data/f{number}.PNG" for number in range(3)]
    files: dict[str, str | None] = dict.fromkeys(names)
    files |= {name.replace("PNG", "txt"): LINE for name in names}
    files |= {"obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"}
    files |= {"obj.names": "bolt\n", "train.txt": "\n".join(f"data/{name}" for name in names)}
    root = put(files)
    for given in (root, root / "obj.data"):
        dataset = read(given)
        assert dataset.classes.names == ("bolt",)
        assert found(dataset) == {name: [BOX] for name in names}


def test_xml_in_subfolders(put):
    files: dict[str, str | None] = {}
    for name in ("a/0", "a/1", "b/0", "b/1", "z"):
        files |= {f"JPEGImages/{name}.jpg": None, f"Annotations/{name}.xml": XML.format(f"{name}.jpg")}
    dataset = read(put(files))
    assert found(dataset) == {name: [BOX] for name in files if name.endswith(".jpg")}
    everything = [record.image_id for records in dataset.splits.values() for record in records]
    assert sorted(everything) == [
        "Annotations/a/0",
        "Annotations/a/1",
        "Annotations/b/0",
        "Annotations/b/1",
        "z",
    ]


def test_xml_whose_filename_has_no_folder(put):
    files: dict[str, str | None] = {}
    for name in ("a/0", "b/0"):
        files |= {f"JPEGImages/{name}.jpg": None, f"Annotations/{name}.xml": XML.format("0.jpg")}
    dataset = read(put(files))
    pairs = {
        record.image_id[-3:]: record.path.parent.name
        for records in dataset.splits.values()
        for record in records
    }
    assert pairs == {"a/0": "a", "b/0": "b"}


def test_oxford_pets(put):
    files: dict[str, str | None] = {"annotations/list.txt": "p0 1 1 1\n", "annotations/trimaps/._p0.png": "x"}
    for name in ("p0", "p1", "p2"):
        files |= {f"images/{name}.jpg": None, f"annotations/trimaps/{name}.png": None}
        files |= {f"annotations/xmls/{name}.xml": XML.format(f"{name}.jpg").replace("bolt", "cat")}
    dataset = read(put(files))
    assert dataset.classes.names == ("cat",)
    assert found(dataset) == {f"images/{name}.jpg": [BOX] for name in ("p0", "p1", "p2")}


@pytest.mark.parametrize("top", ["", "images/"])
def test_tensorflow_keeps_xml_beside_the_pictures_of_each_split(put, top):
    files: dict[str, str | None] = {}
    for split in ("train", "test"):
        for number in range(2):
            name = f"{top}{split}/{split}{number}"
            files |= {f"{name}.jpg": None, f"{name}.xml": XML.format(f"{split}{number}.jpg")}
    root = put(files)
    given = [root, root / "images"] if top else [root]
    for folder in given:
        dataset = read(folder)
        assert {split: len(records) for split, records in dataset.splits.items()} == {
            "train": 1,
            "val": 1,
            "test": 2,
        }


def test_label_studio_encodes_names(put):
    names = ["images/ab12-my photo (1).jpg", "images/ab13-größe.jpg"]
    written = ["images/ab12-my%20photo%20(1).jpg", "images/ab13-gr%C3%B6%C3%9Fe.jpg"]
    assert found(read(put({**dict.fromkeys(names), "result.json": coco(written)}))) == {
        name: [BOX] for name in names
    }


@pytest.mark.parametrize("folder", ["", "labels/", "train/"])
def test_a_class_file_is_enough(put, folder):
    files: dict[str, str | None] = {f"{folder}classes.txt": "bolt\n\nnut\n", "notes.json": "{}"}
    for number in range(3):
        image, label = ("images", "labels") if folder == "labels/" else (folder or ".", folder or ".")
        files |= {f"{image}/{number}.jpg": None, f"{label}/{number}.txt": LINE}
    dataset = read(put(files))
    assert (dataset.classes.names, dataset.classes.ids) == (("bolt", "nut"), (0, 2))
    assert len(found(dataset)) == 3
    assert set(map(str, found(dataset).values())) == {str([BOX])}


def test_class_files_that_contradict_each_other(put):
    root = put(
        {"train/classes.txt": "bolt\n", "val/classes.txt": "nut\n", "train/a.jpg": None, "val/b.jpg": None}
    )
    with pytest.raises(DataError, match="name other classes"):
        read(root)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.json", '{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "labelme2coco"),
        ("via.json", '{"a.jpg1": {"regions": [{"shape_attributes": {}}]}}', "VIA.*COCO"),
        ("via.csv", "filename,file_size,region_shape_attributes\n", "VIA.*COCO"),
        ("x.json", '[{"data": {}, "annotations": [{"result": []}]}]', "Label Studio.*COCO or YOLO"),
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT.*COCO"),
    ],
)
def test_formats_that_are_not_read_get_a_hint(put, name, text, hint):
    root = put({"a.jpg": None, name: text})
    with pytest.raises(UnrecognisedDataError, match=hint):
        read(root)


def test_ids_are_the_same_however_a_data_set_is_named(put, monkeypatch):
    files: dict[str, str | None] = {
        "data.yaml": "path: /nowhere\ntrain:\n - images/f1\n - images/f2\nval:\n - images/f3\nnames: [bolt]\n"
    }
    for folder in ("f1", "f2", "f3"):
        files |= {f"images/{folder}/0.jpg": None, f"labels/{folder}/0.txt": f"\ufeff{LINE}"}
    root = put(files)
    monkeypatch.chdir(root.parent)
    moved = Path(shutil.copytree(root, root.parent / f"{root.name}-moved"))
    givens = (root, Path(root.name), Path(root.name), root / ".." / root.name, moved)
    readings = [read(given).splits["train"] for given in givens]
    assert [record.image_id for record in readings[0]] == ["images/f1/0", "images/f2/0"]
    assert len({fingerprint(records) for records in readings}) == 1


def test_one_image_cannot_be_divided(put):
    root = put(
        {
            "images/train/a.jpg": None,
            "labels/train/a.txt": LINE,
            "data.yaml": "train: images/train\nnames: [bolt]\n",
        }
    )
    report = check(root)
    assert not report.usable
    assert any("a single training image cannot be divided" in note for note in report.dataset.notes)
    with pytest.raises(DataError, match=r"a single training image cannot be divided.*add"):
        usable_records(report.dataset, "val", skip_bad=False)


@pytest.mark.parametrize("given", ["/dev/zero", "pipe", "x" * 5000, "a\0b", "huge.yaml", "deep.json"])
def test_what_is_no_file_of_a_person_is_refused(put, tmp_path, given):
    put({"deep.json": "[" * 100_000})
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError):
        read(tmp_path / given)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "huge.txt"])
@pytest.mark.parametrize("where", ["train", "names", "list", "label", "image"])
def test_what_never_ends_or_never_answers_is_refused_wherever_it_is_named(put, tmp_path, target, where):
    root = put(yolo())
    os.mkfifo(root / "pipe")
    with (root / "huge.txt").open("wb") as file:
        file.truncate(2**40)
    if where == "train":
        (root / "data.yaml").write_text(YOLO.replace("images/train", target))
    elif where == "names":
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {target}\n")
    elif where == "list":
        (root / "list.txt").write_text(f"{target}\n")
        (root / "data.yaml").write_text(YOLO.replace("images/train", "list.txt"))
    else:
        link = root / ("labels/train/train0.txt" if where == "label" else "images/train/train0.jpg")
        link.unlink()
        link.symlink_to(target if target.startswith("/") else root / target)
    try:
        report = check(root)
    except DataError:
        return
    assert report.defects
