"""Pictures are read by their content, and no format runs another program."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from flexdetr.data.images import ImageError, read_image
from flexdetr.runtime.picture_formats import picture_formats


def test_all_of_pillows_but_programs() -> None:
    assert {"JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "TGA", "JPEG2000"} <= {*picture_formats()}
    assert {*Image.ID} - {*picture_formats()} == {"EPS", "WMF"}


def test_postscript_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("an interpreter would be started")

    file = tmp_path / "x.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile.load", load)
    with Image.open(file) as image, pytest.raises(AssertionError):  # what Pillow alone would do
        image.load()
    with pytest.raises(ImageError, match="is not an image"):
        read_image(file)
