"""Values that do not fill their range are told, with the brightest of them; ordinary pictures are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.images import pixels
from flexdetr.runtime.deep_pixels import range_warning
from flexdetr.runtime.sources import find, read


def grey(values: np.ndarray, path: Path) -> Image.Image:
    Image.fromarray(values).save(path)
    return Image.open(path)


@pytest.mark.parametrize(
    ("values", "suffix", "said"),
    [
        (np.full((4, 5), 4095, np.uint16), ".png", "is 4095 of 65535, so that it is read as nearly black"),
        (np.full((4, 5), 16383, np.uint16), ".tif", "16383 of 65535"),
        (np.full((4, 5), 118000.0, np.float32), ".tif", "118000, and what is above 255 is read as white"),
        (np.full((4, 5), 70000, np.int32), ".tif", "70000, and what is above 65535 is read as white"),
    ],
)  # fmt: skip
def test_what_does_not_fill_its_range(values: np.ndarray, suffix: str, said: str, tmp_path: Path) -> None:
    assert said in str(range_warning(grey(values, tmp_path / f"one{suffix}")))


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for brightest, told in ((4095, True), (60000, False)):
        path = tmp_path / f"{brightest}.png"
        cv2.imwrite(str(path), np.full((4, 5, 3), brightest, np.uint16))
        said = range_warning(Image.open(path))
        assert (said is not None) == told
        assert said is None or "about 3840 of 65535" in said


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 5), 3, np.uint8),
        np.full((4, 5, 3), 3, np.uint8),
        np.full((4, 5), 60000, np.uint16),
        np.zeros((4, 5), np.uint16),
        np.full((4, 5), 0.5, np.float32),
        np.full((4, 5), 255.0, np.float32),
        np.full((4, 5), np.nan, np.float32),
    ],
)
def test_what_fills_it(values: np.ndarray, tmp_path: Path) -> None:
    assert range_warning(grey(values, tmp_path / "one.tif")) is None


def test_is_told_once_for_a_folder_pages_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dark = np.full((4, 5), 4095, np.uint16)
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(dark).save(tmp_path / name)
    (tmp_path / "c").mkdir()
    pages = [Image.fromarray(dark) for _ in range(3)]
    pages[0].save(tmp_path / "c" / "stack.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.full((4, 5), 300.0, np.float32)).save(tmp_path / "a" / "3.tif")
    assert len(list(read(find(tmp_path), pixels))) == 7
    told = [record.message.partition(": ")[0] for record in caplog.records]
    assert told == [str(tmp_path / one) for one in ("a/1.png", "a/3.tif", "b/1.png", "c/stack.tif")]
