"""Drawn pages: the same files for the same seed, upright, and nothing of the held-out pages in those to train on."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flexdetr.data import page_fonts, page_layouts, pages
from flexdetr.data.page_fonts import FontError, faces
from flexdetr.data.page_scripts import SCRIPTS
from flexdetr.data.page_writing import Box, Sheet
from flexdetr.runtime.fonts import draws, installed_files

pytestmark = pytest.mark.skipif(
    not any(path.name.startswith("DejaVuS") for path in installed_files()),
    reason="no font of DejaVu is installed",
)


def drawn(number: int, *, held_out: bool = False) -> Image.Image:
    return pages.draw_page(np.random.default_rng([3, number]), held_out=held_out)


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    face = faces(held_out=False)["Latin"][0]
    rng = np.random.default_rng(0)
    return Sheet(Image.new("RGB", (300, 400), "white"), rng, face, face, (0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize("held_out", [False, True])
def test_pages_are_pictures_with_writing_on_them(held_out):
    for number in range(6):
        page = drawn(number, held_out=held_out)
        assert page.mode == "RGB"
        assert min(page.size) >= 400
        assert np.asarray(page.convert("L"), float).std() > 3


def test_a_page_follows_from_its_number():
    assert drawn(4).tobytes() == drawn(4).tobytes()
    assert drawn(4).tobytes() != drawn(5).tobytes()


def test_files_follow_from_the_seed_and_more_of_them_change_none(tmp_path):
    first = pages.draw_pages(tmp_path / "a", train=2, val=1, test=1, short_side=96, seed=7)
    second = pages.draw_pages(tmp_path / "b", train=3, val=1, test=0, short_side=96, seed=7)
    names = sorted(path.relative_to(first).as_posix() for path in first.rglob("*.jpg"))
    assert names == [
        "test/page_00001.jpg",
        "train/page_00001.jpg",
        "train/page_00002.jpg",
        "val/page_00001.jpg",
    ]
    for name in names[1:]:
        assert (first / name).read_bytes() == (second / name).read_bytes()
        with Image.open(first / name) as page:
            assert min(page.size) == 96


def test_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be negative, got"):
        pages.draw_pages(tmp_path, train=-1)
    with pytest.raises(ValueError, match="at least 64 pixels wide, got short_side=8"):
        pages.draw_pages(tmp_path, short_side=8)


def test_no_font_and_no_layout_is_on_both_sides():
    train, held_out = faces(held_out=False), faces(held_out=True)
    shared = {face.file for many in train.values() for face in many} & {
        face.file for many in held_out.values() for face in many
    }
    assert not shared
    assert not set(page_layouts.TRAIN) & set(page_layouts.HELD_OUT)
    for script in SCRIPTS:
        for beginning in script.train:
            assert not beginning.startswith(tuple(other for row in SCRIPTS for other in row.held_out)), (
                beginning
            )


def test_scripts_without_a_font_are_named_with_the_package_that_has_one(monkeypatch, caplog):
    dejavu = tuple(path for path in installed_files() if path.name.startswith("DejaVuSans"))
    monkeypatch.setattr(page_fonts, "installed_files", lambda: dejavu)
    with caplog.at_level(logging.WARNING):
        found = faces.__wrapped__(held_out=False)
    assert {"Latin", "Cyrillic and Greek"} <= set(found)
    assert "Chinese (fonts-noto-cjk)" in caplog.text
    monkeypatch.setattr(page_fonts, "installed_files", tuple)
    with pytest.raises(FontError, match="install one, like Debian's fonts-dejavu-core"):
        faces.__wrapped__(held_out=True)


def test_a_font_without_a_script_s_letters_does_not_write_it():
    """Where a font lacks a letter it draws an empty box, which lies the same way in two directions."""
    for held_out in (False, True):
        for script, able in faces(held_out=held_out).items():
            for face in able:
                letters = {letter for text in face.script.texts for letter in text if letter.isalpha()}
                lacking = {letter for letter in letters if not draws(face.at(20), letter)}
                assert len(lacking) <= 0.05 * len(letters), (script, face.file, lacking)


@pytest.mark.parametrize(
    "layout", [*page_layouts.TRAIN, *page_layouts.HELD_OUT], ids=lambda one: one.__name__
)
def test_every_layout_writes(layout):
    for number, many in enumerate(list(faces(held_out=False).values())[::4]):
        page = Sheet(
            Image.new("RGB", (200, 280), "white"),
            np.random.default_rng([1, number]),
            many[0],
            many[-1],
            (0, 0, 0),
            (0, 0, 90),
            vertical=True,
        )
        layout(page)
        assert (np.asarray(page.image) < 128).sum() > 20


def test_lines_run_from_the_top_and_from_the_side_where_their_script_begins(sheet):
    box = Box(20, 30, 280, 380)
    sheet.image.paste("white", (0, 0, 300, 400))
    end = sheet.lines(box, 14, most=3)
    ink = np.argwhere(np.asarray(sheet.image.convert("L")) < 128)
    assert ink[:, 0].min() >= 30
    assert ink[:, 0].max() < end + 4
    assert abs(ink[:, 1].min() - 20) <= 3  # from the left
    assert ink[:, 1].max() < 280


def test_justified_lines_end_together(sheet):
    sheet.image.paste("white", (0, 0, 300, 400))
    sheet._write(sheet.face, (0, 0, 0), Box(20, 30, 280, 380), 12, 6, "justified", 0.0, short=False)
    ink = np.asarray(sheet.image.convert("L")) < 160
    ends = [int(np.flatnonzero(row).max()) for row in ink[30:120] if row[240:].any()]
    assert max(ends) - 281 <= 1
    assert max(ends) >= 276


def test_photographing_keeps_the_top_at_the_top():
    page = Image.new("RGB", (300, 400), "white")
    ImageDraw.Draw(page).rectangle((60, 40, 240, 120), fill="black")
    for number in range(12):
        seen = np.asarray(pages.photograph(np.random.default_rng([2, number]), page).convert("L"), float)
        middle = seen[:, 90:210]
        assert middle[60:100].mean() < middle[250:320].mean() - 15, number
