"""Documents turned upright: the same pixels in other places, and files that no page of was turned are copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.runtime.documents import DocumentError, stored_page
from flexdetr.runtime.orientation import turned
from flexdetr.runtime.upright import write_upright

ANGLES = (0, 90, 180, 270)


def picture(height=48, width=64, mode="RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    grey = (127 + 90 * np.sin(x / 9) * np.cos(y / 5)).astype(np.uint8)
    return Image.fromarray(np.stack([grey, grey[::-1], grey // 2], axis=2)).convert(mode)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "RGB"), ("png", "1"), ("png", "P"), ("tif", "L"), ("bmp", "RGB"), ("webp", "RGB")],
)
def test_pixels_are_moved_and_not_changed(tmp_path, suffix, mode, angle):
    upright = picture(mode=mode)
    lying = upright.rotate(-angle, expand=True)  # Pillow turns counter-clockwise
    source = tmp_path / f"page.{suffix}"
    lying.save(source, lossless=True)
    written, how = write_upright(source, [angle], tmp_path / f"out.{suffix}")
    with Image.open(written) as found:
        assert found.mode == upright.mode
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(upright.convert("RGB")))
    assert how == ("rearranged" if angle else "copied")
    assert angle or written.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("angle", ANGLES)
def test_the_class_of_a_page_is_how_far_it_lies_clockwise_from_upright(tmp_path, angle):
    upright = np.asarray(picture())
    source = tmp_path / "page.png"
    Image.fromarray(turned(upright, angle // 90)).save(source)
    write_upright(source, [angle], tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), upright)


@pytest.mark.parametrize("angle", ANGLES[1:])
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_a_jpeg_file_keeps_its_tables_and_nearly_its_pixels(tmp_path, angle, sampling):
    source, out = tmp_path / "page.jpg", tmp_path / "out.jpg"
    picture().save(source, quality=80, subsampling=sampling, dpi=(300, 300))
    assert write_upright(source, [angle], out) == (out, "re-encoded")
    with Image.open(source) as before, Image.open(out) as after:
        tables = np.reshape(before.quantization[0], (8, 8))
        assert after.quantization[0] == (tables if angle == 180 else tables.T).ravel().tolist()
        assert after.info["dpi"] == (300, 300)
        expected = turned(np.asarray(before), -angle // 90).astype(int)
        difference = np.abs(np.asarray(after).astype(int) - expected)
        assert difference.mean() < 1.5


def test_exif_is_kept_but_for_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    source, out = tmp_path / "page.jpg", tmp_path / "out.jpg"
    picture().save(source, exif=exif)
    write_upright(source, [0], out)
    with Image.open(out) as found:
        assert dict(found.getexif()) == {0x010F: "a camera"}
        assert found.size == (64, 48)


def test_pages_of_a_tiff_file_are_turned_each_by_its_own_angle(tmp_path):
    source, out = tmp_path / "pages.tif", tmp_path / "out.tif"
    first = picture(mode="L")
    second = first.point(lambda value: 255 - value)
    first.save(source, save_all=True, append_images=[second], compression="tiff_lzw")
    assert write_upright(source, [0, 90], out) == (out, "rearranged")
    assert np.array_equal(np.asarray(stored_page(out, 0)), np.asarray(first))
    assert np.array_equal(np.asarray(stored_page(out, 1)), turned(np.asarray(second), -1))
    with Image.open(out) as found:
        assert found.info["compression"] == "tiff_lzw"


@pytest.mark.parametrize("angle", ANGLES)
def test_pages_of_a_pdf_file_state_a_rotation(tmp_path, angle):
    pytest.importorskip("pypdfium2")
    source, out = tmp_path / "pages.pdf", tmp_path / "out.pdf"
    upright = Image.new("L", (60, 90), 255)
    upright.paste(0, (0, 0, 60, 30))
    lying = Image.fromarray(turned(np.asarray(upright), angle // 90))
    lying.save(source, save_all=True, append_images=[upright], resolution=72)
    written, how = write_upright(source, [angle, 0], out)
    assert how == ("marked" if angle else "copied")
    for number in range(2):
        page = np.asarray(stored_page(written, number, short_side=60).convert("L"), float)
        assert page.shape[0] > page.shape[1]
        assert page[5:20].mean() < 60 < 200 < page[40:].mean()


def test_a_format_that_cannot_be_written_becomes_png(tmp_path):
    source = tmp_path / "page.gif"
    picture(mode="P").save(source)
    written, how = write_upright(source, [180], tmp_path / "out.gif")
    assert (written.name, how) == ("out.png", "rearranged")


def test_what_cannot_be_done_is_refused(tmp_path):
    source = tmp_path / "page.png"
    picture().save(source)
    with pytest.raises(ValueError, match="by 0, 90, 180 or 270 degrees, got 45"):
        write_upright(source, [45], tmp_path / "out.png")
    with pytest.raises(ValueError, match="would take the place of the page itself"):
        write_upright(source, [90], source)
    with pytest.raises(DocumentError, match="has 1 pages, and 2 angles"):
        write_upright(source, [90, 0], tmp_path / "out.png")
    Path(tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DocumentError, match=r"text.png: is not a picture that can be read"):
        write_upright(tmp_path / "text.png", [90], tmp_path / "out.png")
