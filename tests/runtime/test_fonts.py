"""Names in any script are written in a font that has their letters, or not at all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from flexdetr.draw import draw_detections
from flexdetr.runtime import fonts
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.fonts import font_for

RUSSIAN, CHINESE, NOWHERE = "кошка", "猫", "\U0001f9ff\U00013000\U00012000"


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    yield
    for function in (fonts._files, fonts._installed_with, fonts._has, fonts._opened):
        function.cache_clear()


def russian() -> Path:
    """An installed font with Russian letters."""
    found = next((Path(one) for one in fonts._files() if all(fonts._has(one, x) for x in RUSSIAN)), None)
    if found is None:
        pytest.skip("no font with Russian letters is installed")
    return found


def drawn(name: str, label: int = 1) -> np.ndarray:
    found = Detections([[20, 80, 90, 110]], [0.9], [label], [name], [0])
    return draw_detections(np.zeros((120, 160, 3), np.uint8), found)


def test_pillow_s_own_font_where_it_suffices() -> None:
    font, own = font_for("cat 1", 12), ImageFont.load_default(12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert font.getname() == own.getname()


def test_an_installed_font_where_it_does_not() -> None:
    russian()
    font = font_for(RUSSIAN, 14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    masks = {bytes(font.getmask(letter)) for letter in set(RUSSIAN)}
    assert len(masks) == len(set(RUSSIAN)), "every letter looks otherwise"
    assert (drawn(RUSSIAN) != drawn("собака")).any()


def test_ids_where_no_font_has_the_letters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_folders", list)
    with caplog.at_level(logging.WARNING, "flexdetr"):
        assert font_for(CHINESE, 14) is None
        assert (drawn(CHINESE, 7) == drawn("class 7", 7)).all()
        assert (drawn(CHINESE, 7) != drawn(CHINESE, 8)).any()
    said = [record.message for record in caplog.records if "no installed font" in record.message]
    assert len(said) == 1
    assert fonts.VARIABLE in said[0]


def test_a_font_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shutil.copy(russian(), tmp_path / "mine.ttf")
    fonts._files.cache_clear()
    monkeypatch.setattr(fonts, "_folders", list)
    monkeypatch.setenv(fonts.VARIABLE, str(file))
    font = font_for(RUSSIAN, 14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.path == str(file)


def test_files_that_are_no_fonts_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = russian()
    (tmp_path / "a.ttf").write_bytes(b"no font")
    shutil.copy(file, tmp_path / "b.ttf")
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path, tmp_path / "gone"])
    fonts._files.cache_clear()
    font = font_for(RUSSIAN, 14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.path == str(tmp_path / "b.ttf")
    assert font_for(NOWHERE, 14) is None
