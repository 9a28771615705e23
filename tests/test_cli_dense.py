"""The limits of a dense head on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.api import Detector
from flexdetr.cli import main


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained detector of each kind, and a picture of noise."""
    folder = tmp_path_factory.mktemp("dense")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    for name in ("yolov8_hgnetv2_b0", "flexdetr_atto"):
        detector = Detector(name, classes=["cat", "dog"], image_size=64)
        detector.save(folder / f"{name}.safetensors")
    return folder


def predict(folder: Path, model: str, *options: str) -> int:
    command = ["predict", str(folder / f"{model}.safetensors"), str(folder / "noise.png")]
    return main([*command, "--threshold", "0", "--out", str(folder / "out"), *options])


def test_fewer_boxes_stay(checkpoints: Path) -> None:
    counts = []
    for options in (["--max-detections", "300"], ["--max-detections", "3"], ["--iou", "0"], ["--score", "1"]):
        assert predict(checkpoints, "yolov8_hgnetv2_b0", "--score", "0", *options) == 0
        document = json.loads((checkpoints / "out" / "detections.json").read_text(encoding="utf-8"))
        found = document if isinstance(document, list) else document["annotations"]
        counts.append(len(found))
    many, three, disjoint, none = counts
    assert three == 3
    assert none == 0
    assert 0 < disjoint < many


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--iou", "1.5", "less than or equal to 1"),
        ("--score", "-0.1", "greater than or equal to 0"),
        ("--max-detections", "0", "greater than or equal to 1"),
    ],
)
def test_limits_outside_their_range(
    checkpoints: Path, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(checkpoints, "yolov8_hgnetv2_b0", option, value) == 2
    assert message in capsys.readouterr().err


def test_each_head_has_its_own_options(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(checkpoints, "flexdetr_atto", "--iou", "0.5") == 2
    assert "head.iou: this head has no such option; 'yolov8' has it" in capsys.readouterr().err
    assert predict(checkpoints, "yolov8_hgnetv2_b0", "--queries", "5") == 2
    assert "head.queries: this head has no such option" in capsys.readouterr().err
