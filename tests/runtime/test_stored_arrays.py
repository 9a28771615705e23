"""Pictures of any channels in .npy and TIFF: their sizes, their values, and what does not fit a model."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.images import ImageError, pixels, probe, read_image, read_reduced, verify
from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime import deep_pixels
from flexdetr.runtime.arrays import ArrayError, as_picture, shown

FIVE = PixelForm(5)
GREY = PixelForm(1)


@pytest.fixture
def bands():
    return np.random.default_rng(0).integers(0, 256, (12, 20, 5), dtype=np.uint8)


def written(path, array, **options):
    tifffile = pytest.importorskip("tifffile", reason="flexdetr[tiff] is not installed")
    tifffile.imwrite(path, array, **options)
    return path


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_an_array_is_read_wherever_its_channels_stand(tmp_path, bands, first):
    path = tmp_path / "a.npy"
    np.save(path, np.moveaxis(bands, 2, 0) if first else bands)
    assert probe(path).oriented == (20, 12)
    assert (read_image(path, FIVE) == bands).all()
    assert verify(path, FIVE) is None


@pytest.mark.parametrize("how", ["chunky", "planar", "pages"])
def test_a_tiff_of_five_channels_is_read_however_it_stores_them(tmp_path, bands, how):
    planes = np.moveaxis(bands, 2, 0)
    path = tmp_path / "a.tif"
    if how == "chunky":
        written(path, bands, photometric="minisblack", planarconfig="contig")
    elif how == "planar":
        written(path, planes, photometric="minisblack", planarconfig="separate")
    else:
        written(path, planes, photometric="minisblack")
    assert probe(path).oriented == (20, 12)
    assert (read_image(path, FIVE) == bands).all()


def test_a_turned_tiff_stands_upright(tmp_path, bands):
    path = written(
        tmp_path / "a.tif",
        bands,
        photometric="minisblack",
        planarconfig="contig",
        extratags=[(274, 3, 1, 6, True)],
    )
    assert probe(path).oriented == (12, 20)
    assert (read_image(path, FIVE) == np.rot90(bands, -1)).all()


def test_sixteen_bits_keep_their_high_byte_or_fill_a_stated_range(tmp_path, caplog):
    deep_pixels._told.clear()
    path = tmp_path / "a.npy"
    np.save(path, np.array([[0, 1024, 4095]], np.uint16).reshape(1, 3, 1))
    with caplog.at_level(logging.WARNING):
        assert read_image(path, GREY).ravel().tolist() == [0, 4, 15]
    assert "data.value_range=[0, 4095]" in caplog.text
    stretched = PixelForm(1, (0.0, 4095.0))
    assert read_image(path, stretched).ravel().tolist() == [0, 64, 255]
    Image.fromarray(np.array([[0, 1024, 4095]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", stretched).ravel().tolist() == [0, 64, 255]


def test_colours_become_grey_as_pillow_makes_it_and_grey_becomes_rgb(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    luma = np.asarray(Image.fromarray(colours).convert("L"))
    assert (read_image(tmp_path / "a.png", GREY)[:, :, 0] == luma).all()
    assert (as_picture(colours, GREY)[:, :, 0] == luma).all()
    np.save(tmp_path / "a.npy", luma)
    assert (read_image(tmp_path / "a.npy", RGB) == luma[:, :, None]).all()


def test_a_picture_of_four_stored_channels_is_no_rgba(tmp_path, bands):
    np.save(tmp_path / "a.npy", bands[:, :, :4])
    with pytest.raises(ImageError, match="has 4 channels, and the model takes RGB pictures"):
        read_image(tmp_path / "a.npy")
    assert (read_image(tmp_path / "a.npy", PixelForm(4)) == bands[:, :, :4]).all()


def test_other_channels_than_the_models_are_refused_in_one_sentence(tmp_path, bands):
    np.save(tmp_path / "a.npy", bands)
    with pytest.raises(ImageError, match="has 5 channels, and the model takes RGB pictures"):
        read_image(tmp_path / "a.npy")
    Image.fromarray(bands[:, :, :3]).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="has 3 channels, and the model takes pictures of 5 channels"):
        pixels(tmp_path / "a.png", FIVE)
    with pytest.raises(ArrayError, match="with 5 channels"):
        as_picture(bands[:, :, :3], FIVE)
    written(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"data\.channels"):
        read_image(tmp_path / "a.tif")


def test_a_file_is_read_no_larger_than_needed(tmp_path):
    np.save(tmp_path / "a.npy", np.full((40, 80, 5), 7, np.uint8))
    small = read_reduced(tmp_path / "a.npy", (10, 20), FIVE)
    assert small.shape == (10, 20, 5)
    assert (small == 7).all()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"no array"], ids=repr)
def test_a_damaged_array_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    for read in (probe, read_image):
        with pytest.raises(ImageError, match=r"a\.npy"):
            read(tmp_path / "a.npy")


def test_people_are_shown_the_first_channels(bands):
    assert (shown(bands) == bands[:, :, :3]).all()
    assert (shown(bands[:, :, :2]) == bands[:, :, :1]).all()
