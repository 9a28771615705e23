"""Objects cut out: squares of whose middle a classifier sees the object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.crops import cut_out
from flexdetr.data.dataset import DataError
from flexdetr.runtime.middle import middle


def drawn(folder: Path, boxes: list[tuple[int, int, int, int]]) -> Path:
    """A picture of 200 x 120 in YOLO's form, black but for white boxes xyxy."""
    image = np.zeros((120, 200, 3), np.uint8)
    lines = []
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
        lines.append(f"0 {(x0 + x1) / 400} {(y0 + y1) / 240} {(x1 - x0) / 200} {(y1 - y0) / 120}")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        Image.fromarray(image).save(folder / "images" / split / "one.png")
        (folder / "labels" / split / "one.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [bar]\n", encoding="utf-8"
    )
    return folder


def cut(tmp_path: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    cut_out(drawn(tmp_path / "data", [box]), tmp_path / "out")
    (file,) = (tmp_path / "out" / "train" / "bar").iterdir()
    return np.asarray(Image.open(file))


def test_the_middle_has_all_of_the_object(tmp_path: Path) -> None:
    image = cut(tmp_path, (90, 20, 104, 90))  # 14 x 70: a square of 80
    assert image.shape == (80, 80, 3)
    seen = middle(image)
    assert seen.shape == (70, 70, 3)
    assert int((seen > 0).all(-1).sum()) == 14 * 70


def test_at_the_border_the_square_is_moved(tmp_path: Path) -> None:
    image = cut(tmp_path, (0, 20, 14, 90))
    assert image.shape == (80, 80, 3)
    assert int((image > 0).all(-1).sum()) == 14 * 70


def test_it_is_no_larger_than_the_picture(tmp_path: Path) -> None:
    assert cut(tmp_path, (10, 5, 190, 115)).shape == (120, 200, 3)


def test_objects_that_nobody_can_tell_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no objects that could be cut out"):
        cut_out(drawn(tmp_path / "data", [(10, 10, 14, 14)]), tmp_path / "out")
