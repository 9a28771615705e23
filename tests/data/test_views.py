"""Pictures of any channels as pages show them, and what the pages say about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.detect import read
from flexdetr.data.images import ImageError, read_reduced
from flexdetr.data.statistics import statistics
from flexdetr.data.views import read_view
from flexdetr.report.data_page import preview_page, statistics_page

SIZE = (60, 80)


def ramp(channels: int) -> np.ndarray:
    """Each channel rises from left to right, and is 100 above the one before."""
    columns = np.linspace(1000, 3000, SIZE[1]).astype(np.uint16)
    return np.stack([np.broadcast_to(columns + 100 * one, SIZE) for one in range(channels)], axis=2)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (ramp(5), "channels 1 to 3 of 5 as RGB, 1050 to 3149 as black to white"),
        (np.moveaxis(ramp(5), 2, 0), "channels 1 to 3 of 5 as RGB"),
        (ramp(2), "channel 1 of 2 as grey"),
        (ramp(1).astype(np.float32), "channel 1 of 1 as grey"),  # floats above 255
        (
            np.repeat(np.arange(80, dtype=np.uint8)[None], 60, 0)[..., None].repeat(4, 2),
            "channels 1 to 3 of 4 as RGB",
        ),
    ],
)
def test_numbers_are_shown_as_colours_or_grey(tmp_path: Path, array: np.ndarray, said: str) -> None:
    file = tmp_path / "a.npy"
    np.save(file, array)
    with pytest.raises(ImageError):
        read_reduced(file, (30, 40))
    view, told = read_view(file, (30, 40))
    assert told.startswith(said)
    assert view.shape == (30, 40, 3)
    rows = view[15, :, 0].astype(int)
    assert (np.diff(rows) >= 0).all()
    if array.dtype != np.uint8:
        assert rows[0] < 5
        assert rows[-1] > 225
        assert ("black to white" in told) == (array.dtype != np.uint8)
    assert (view[..., 2] >= view[..., 0]).all()


def test_a_tiff_of_five_channels(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    tifffile.imwrite(tmp_path / "a.tif", ramp(5), photometric="minisblack", planarconfig="contig")
    view, told = read_view(tmp_path / "a.tif", SIZE)
    assert view.shape == (*SIZE, 3)
    assert told.startswith("channels 1 to 3 of 5 as RGB")


def test_values_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    array = ramp(5).astype(np.float32)
    array[:30] = np.nan
    array[30] = np.inf
    np.save(tmp_path / "a.npy", array)
    view, told = read_view(tmp_path / "a.npy", SIZE)
    assert "inf" not in told
    assert view[:30].max() == 0
    assert view[31:].max() == 255
    np.save(tmp_path / "b.npy", np.full((*SIZE, 5), np.nan))
    assert read_view(tmp_path / "b.npy", SIZE)[0].max() == 0


def test_other_pictures_are_read_as_ever_and_damage_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (9, 8, 7)).save(tmp_path / "a.png")
    view, told = read_view(tmp_path / "a.png", SIZE)
    assert told == ""
    assert view.tolist() == read_reduced(tmp_path / "a.png", SIZE).tolist()
    (tmp_path / "b.npy").write_bytes(b"nothing")
    (tmp_path / "c.png").write_bytes(b"nothing")
    np.save(tmp_path / "d.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "e.npy", np.zeros((60, 80, 5), complex))
    for name in ("b.npy", "c.png", "d.npy", "e.npy", "gone.npy"):
        with pytest.raises(ImageError, match=name):
            read_view(tmp_path / name, SIZE)


def test_pages_show_them_and_say_what_is_shown(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", ramp(5))
    document = {
        "images": [
            {"id": number, "file_name": f"{name}.npy", "width": 80, "height": 60}
            for number, name in enumerate("ab", start=1)
        ],
        "categories": [{"id": 1, "name": "crop"}],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [5, 5, 20, 20],
                "area": 400,
                "iscrowd": 0,
            }
            for number in (1, 2)
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    dataset = read(tmp_path, val_fraction=None)
    text = preview_page(dataset, count=4)
    assert text.count("data:image/jpeg") == 2
    assert (
        text.count("<p>a.npy: 1 object; channels 1 to 3 of 5 as RGB, 1050 to 3149 as black to white</p>") == 1
    )
    counted = statistics(dataset)
    assert not counted.unread
    assert len(counted.twins) == 1
    assert statistics_page(counted).count("data:image/jpeg") == 2
