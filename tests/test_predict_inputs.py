"""What ``predict`` takes in Python: the same picture in every form gives the same objects."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexdetr import Detector
from flexdetr.data import images
from flexdetr.data.images import ImageError
from flexdetr.runtime.detections import Detections


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector("flexdetr_pico", classes=["cat", "dog"], image_size=64)


def same(one: Detections, other: Detections) -> bool:
    return bool(np.array_equal(one.boxes_xyxy, other.boxes_xyxy) and np.array_equal(one.scores, other.scores))


def test_forms_of_one_picture(detector: Detector, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    given = [array, Image.fromarray(array), file.getvalue(), tensor, tensor / 255, tmp_path / "a.png"]
    first, *others = detector.predict(given, 0.0)
    assert len(first)
    assert first.size == (40, 60)
    assert all(same(first, other) for other in others)
    assert same(first, detector.predict(file.getvalue(), 0.0))
    assert not same(first, detector.predict(array[:, :, 0], 0.0))


@pytest.mark.parametrize(
    "wrong", [3, None, {"a": 1}, np.zeros((2, 3, 8, 8)), b"no picture", "http://127.0.0.1:1/a"]
)
def test_what_is_no_picture_is_a_sentence(detector: Detector, wrong: object) -> None:
    with pytest.raises(ImageError):
        detector.predict(wrong)  # type: ignore[call-overload]


def test_a_film_gives_its_frames(detector: Detector, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for number in range(3):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    found = detector.predict(path, 0.0, decoder_layers=1)
    assert isinstance(found, list)
    assert [one.size for one in found] == [(48, 64)] * 3
    assert len(detector.predict(str(path), 0.0, slice=32)) == 3
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match="gives no picture"):
        detector.predict(path)


def test_one_frame_of_several_is_told_once(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_told", set())
    frames = [Image.new("RGB", (20, 12), (40 * number,) * 3) for number in range(3)]
    for name in ("a.gif", "b.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "c.gif")
    with caplog.at_level(logging.WARNING):
        found = detector.predict([tmp_path / "c.gif", tmp_path / "a.gif", tmp_path / "b.gif"])
    assert len(found) == 3
    told = [record.getMessage() for record in caplog.records if "several frames" in record.getMessage()]
    assert told == [
        f"{tmp_path / 'a.gif'}: holds several frames or pages, of which the first is taken (reported once per folder)"
    ]
