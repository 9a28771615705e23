"""Folders of pages: divided by document before they are turned, read as stored, four times each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexdetr.data import page_folder
from flexdetr.data.check import broken_images, usable_records
from flexdetr.data.dataset import DataError, UnrecognisedDataError
from flexdetr.data.record_pixels import read_page, read_record, read_record_reduced
from flexdetr.runtime.middle import middle
from flexdetr.runtime.orientation import ORIENTATIONS, turned


def page(path: Path, width=60, height=80, **options) -> Path:
    """A page whose top edge is red, in a file."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[: height // 3] = (250, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def red_side(image: np.ndarray) -> str:
    red = image[..., 1] < 100
    sides = {"top": red[0], "bottom": red[-1], "left": red[:, 0], "right": red[:, -1]}
    return max(sides, key=lambda side: sides[side].mean())


def documents(records) -> set[str]:
    return {record.path.name for record in records}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(20):
        page(tmp_path / f"p{number:02d}.png")
    return tmp_path


def test_each_page_is_there_in_all_four_turns(folder):
    dataset = page_folder.read(folder)
    assert dataset.format == "pages"
    assert dataset.classes.names == ("0", "90", "180", "270")
    assert dataset.classes.ids == (0, 90, 180, 270)
    for records in dataset.splits.values():
        for name in documents(records):
            mine = [record for record in records if record.path.name == name]
            assert [int(record.labels[0]) for record in mine] == [0, 1, 2, 3]
            assert [red_side(read_page(record, None)) for record in mine] == [
                "top",
                "right",
                "bottom",
                "left",
            ]
            assert [record.image_id for record in mine] == [f"{name}@{angle}" for angle in (0, 90, 180, 270)]
            assert [(record.width, record.height) for record in mine] == [(60, 80), (80, 60)] * 2


def test_pages_are_divided_before_they_are_turned(folder):
    dataset = page_folder.read(folder, val_fraction=0.2, seed=3)
    parts = [documents(dataset.splits[split]) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20
    assert dataset.notes == (
        "20 documents, divided before pages are turned: 4 for test and 4 for val (seed 3)",
    )
    again = page_folder.read(folder, val_fraction=0.2, seed=3)
    assert documents(again.splits["test"]) == parts[2]
    assert documents(page_folder.read(folder, val_fraction=0.2, seed=4).splits["test"]) != parts[2]
    assert set(page_folder.read(folder, val_fraction=None).splits) == {"train"}


def test_a_document_of_groups_csv_is_in_one_split(folder):
    lines = [f"p{number:02d}.png,book {number // 5}" for number in range(20)]
    (folder / "groups.csv").write_text("\n".join(["file,document", *lines, "gone.png,book 1"]))
    dataset = page_folder.read(folder)
    books = [{int(name[1:3]) // 5 for name in documents(records)} for records in dataset.splits.values()]
    assert sum(map(len, books)) == 4
    (warning,) = dataset.defects
    assert str(warning).endswith("groups.csv:22: warning: gone.png is not one of the pages")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,book\np00.png,a\n", "groups.csv:1: the first line must be `file` and the name of the groups"),
        ("file,book\np00.png\n", "groups.csv:2: a file without a group: p00.png"),
    ],
)
def test_a_wrong_groups_csv_is_refused_with_its_line(folder, text, said):
    (folder / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        page_folder.read(folder)


def test_folders_that_are_named_like_splits_are_the_splits(tmp_path):
    for split in ("train", "valid", "test"):
        page(tmp_path / split / "below" / f"{split}.png")
    dataset = page_folder.read(tmp_path)
    assert {split: documents(records) for split, records in dataset.splits.items()} == {
        "train": {"train.png"},
        "val": {"valid.png"},
        "test": {"test.png"},
    }


def test_exif_turns_nothing_and_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(4):
        page(tmp_path / f"{number}.jpg", exif=exif, quality=95)
    dataset = page_folder.read(tmp_path, val_fraction=None)
    first = dataset.splits["train"][0]
    assert (first.width, first.height) == (60, 80)
    assert red_side(read_page(first, None)) == "top"
    assert "has an EXIF orientation (and 3 others), which is not applied" in str(dataset.defects[0])


def test_unreadable_pages_are_listed_and_the_rest_goes_on_where_asked(folder):
    (folder / "broken.png").write_bytes((folder / "p00.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("no picture")
    dataset = page_folder.read(folder, val_fraction=None)
    assert "text.jpg: error: is not a picture that can be read" in "\n".join(map(str, dataset.defects))
    assert "broken.png" in "\n".join(
        map(str, (*dataset.defects, *broken_images(dataset.splits["train"]).values()))
    )
    with pytest.raises(DataError, match=r"go on without them: --set data.skip_bad=true"):
        usable_records(dataset, "train", skip_bad=False)
    assert len(usable_records(dataset, "train", skip_bad=True)) == 80


def test_a_folder_without_pages_is_refused(tmp_path):
    with pytest.raises(UnrecognisedDataError, match="holds no page that can be read"):
        page_folder.read(tmp_path)
    with pytest.raises(UnrecognisedDataError, match="is not a folder; orientation is learned from a folder"):
        page_folder.read(tmp_path / "gone")


def test_too_few_documents_are_not_divided(tmp_path):
    page(tmp_path / "only.png")
    dataset = page_folder.read(tmp_path)
    assert set(dataset.splits) == {"train"}
    assert dataset.notes == ("1 documents are too few to take pages for test and val from them",)


def test_all_pages_of_a_pdf_file_stay_together(tmp_path):
    pypdfium2 = pytest.importorskip("pypdfium2")
    sheet = Image.open(page(tmp_path / "sheet.png"))
    sheet.save(tmp_path / "doc.pdf", save_all=True, append_images=[sheet, sheet], resolution=72)
    assert len(pypdfium2.PdfDocument(tmp_path / "doc.pdf")) == 3
    records = page_folder.read(tmp_path, val_fraction=None).splits["train"]
    pages = [record for record in records if record.path.suffix == ".pdf"]
    assert [record.image_id for record in pages[::4]] == ["doc.pdf#1@0", "doc.pdf#2@0", "doc.pdf#3@0"]
    assert [red_side(read_record_reduced(record, (50, 50))) for record in pages[4:8]] == [
        "top",
        "right",
        "bottom",
        "left",
    ]


def test_pages_of_a_tiff_file_are_pages(tmp_path):
    first, second = Image.new("L", (40, 50), 10), Image.new("L", (40, 50), 200)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    records = page_folder.read(tmp_path, val_fraction=None).splits["train"]
    assert [int(read_record(record)[0, 0, 0]) for record in records[::4]] == [10, 200]


def test_documents_of_the_reference_data_stay_together(shared):
    dataset = page_folder.read(shared / "data" / "documents")
    slides = [
        split
        for split, records in dataset.splits.items()
        if documents(records) & {"cnocr_slide_a.jpg", "cnocr_slide_b.jpg"}
    ]
    assert len(slides) == 1
    assert sum(map(len, dataset.splits.values())) == 42 * 4


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_turning_there_and_back_changes_nothing(height, width, turns):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    there = turned(image, turns)
    assert np.array_equal(turned(there, -turns), image)
    assert there.shape[:2] == ((height, width) if turns % 2 == 0 else (width, height))


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_middle_is_a_square_inside(height, width):
    seen = middle(np.zeros((height, width, 3), np.uint8))
    assert seen.shape[0] == seen.shape[1] == max(1, round(min(height, width) * 7 / 8))


def test_the_middle_is_the_same_in_every_turn():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    assert middle(image).shape == (56, 56, 3)
    for turns in range(4):
        assert np.array_equal(middle(turned(image, turns)), turned(middle(image), turns))


def test_classes_are_angles():
    assert [ORIENTATIONS.index_of_name(name) for name in ("0", "90", "180", "270")] == [0, 1, 2, 3]
