from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.images import ImageError, halve, probe, read_image, read_reduced, verify

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def _save(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_grey_is_repeated(tmp_path):
    read = read_image(_save(tmp_path, Image.fromarray(GREY)))
    assert read.shape == (16, 16, 3)
    assert read.dtype == np.uint8
    assert (read == GREY[..., None]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_high_byte(tmp_path, suffix):
    values = GREY.astype(np.uint16) * 256 + 77
    read = read_image(_save(tmp_path, Image.fromarray(values), f"deep.{suffix}"))
    assert (read == GREY[..., None]).all()


def test_floats_up_to_one_are_stretched_and_others_clipped(tmp_path):
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert read_image(_save(tmp_path, Image.fromarray(unit), "unit.tif")).max() == 255
    assert read_image(_save(tmp_path, Image.fromarray(unit * 300), "wide.tif")).max() == 255
    assert read_image(_save(tmp_path, Image.fromarray(unit * 100), "dark.tif")).max() == 100


def test_transparency_lies_on_black(tmp_path):
    pixels = np.full((2, 2, 4), 200, dtype=np.uint8)
    pixels[0, :, 3] = 0
    pixels[1, :, 3] = 255
    read = read_image(_save(tmp_path, Image.fromarray(pixels)))
    assert (read[0] == 0).all()
    assert (read[1] == 200).all()


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert read_image(_save(tmp_path, image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert read_image(_save(tmp_path, image, transparency=1)).tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_cmyk_and_bits(tmp_path):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert read_image(_save(tmp_path, cyan, "cyan.jpg")).mean(axis=(0, 1)) == pytest.approx(
        [0, 255, 255], abs=1
    )
    assert (read_image(_save(tmp_path, Image.new("1", (3, 3), 1))) == 255).all()


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    read = read_image(_save(tmp_path, frames[0], "film.gif", save_all=True, append_images=frames[1:]))
    assert (read == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_exif_orientations_look_alike(shared_data, kind):
    folder = shared_data / "awkward" / "exif_orientation"
    reference = read_image(folder / f"{kind}_1.jpg").astype(int)
    for orientation in range(2, 9):
        path = folder / f"{kind}_{orientation}.jpg"
        read = read_image(path)
        info = probe(path)
        assert info.orientation == orientation
        assert info.oriented == (read.shape[1], read.shape[0])
        assert read.shape == reference.shape
        assert np.abs(read - reference).mean() < 12  # the same scene, from other JPEG blocks
    assert probe(folder / f"{kind}_0.jpg").orientation == 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_in_every_format(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.new("RGB", (20, 10)), f"turned.{suffix}", exif=exif)
    height, width = read_image(path).shape[:2]
    info = probe(path)
    assert (info.width, info.height) == (20, 10)
    assert info.oriented == (width, height) == ((10, 20) if orientation > 4 else (20, 10))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_and_foreign_files_are_named(tmp_path, write_image, suffix):
    path = write_image(tmp_path / f"cut.{suffix}", 200, 100)
    verify(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_image, verify, lambda path: read_reduced(path, (10, 10))):
        with pytest.raises(ImageError, match=f"cut.{suffix}: cannot be read"):
            read(path)
    path.write_text("no picture")
    with pytest.raises(ImageError, match="is not an image"):
        probe(path)
    with pytest.raises(ImageError, match="not found"):
        read_image(tmp_path / "missing.png")


@pytest.mark.parametrize(("suffix", "size"), [("jpg", (480, 360)), ("png", (480, 360)), ("jpg", (100, 75))])
def test_reduced_image_covers_what_is_asked_and_keeps_its_shape(tmp_path, suffix, size):
    yy, xx = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([xx * 255 // size[0], yy * 255 // size[1], xx * 0 + 90], axis=2).astype(np.uint8)
    path = _save(tmp_path, Image.fromarray(pixels), f"slope.{suffix}")
    read = read_reduced(path, (90, 100))
    assert read.shape == ((90, 120, 3) if size[0] > 100 else (75, 100, 3))
    whole = np.asarray(Image.fromarray(read_image(path)).resize(read.shape[1::-1], Image.Resampling.BILINEAR))
    assert np.abs(read.astype(int) - whole).mean() < 2


def test_halving_is_the_mean_of_four():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert halve(image)[0, 0].tolist() == [11, 12, 13]  # means 10.5, 11.5, 12.5, rounded
    assert halve(image[:3, :5]).shape == (2, 3, 3)


def test_ranges_of_values_that_would_be_read_black_or_white_are_said(tmp_path):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    twelve = Image.fromarray((ramp * 4095).astype(np.uint16))
    assert "brightest value is 4095 of 65535" in verify(_save(tmp_path, twelve, "twelve.png"))
    wide = Image.fromarray((ramp * 3000).astype(np.float32))
    assert "from 0 to 3000" in verify(_save(tmp_path, wide, "wide.tif"))
    for image in ((ramp * 65535).astype(np.uint16), ramp.astype(np.float32), (ramp * 255).astype(np.uint8)):
        assert verify(_save(tmp_path, Image.fromarray(image), "usual.tif")) is None
