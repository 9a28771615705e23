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


def predict(folder: Path, model: str, *options: str, verbose: bool = False) -> int:
    command = [*(["--verbose"] if verbose else []), "predict"]
    command += [str(folder / f"{model}.safetensors"), str(folder / "noise.png")]
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


def found_in(folder: Path) -> int:
    document = json.loads((folder / "out" / "detections.json").read_text(encoding="utf-8"))
    return len(document if isinstance(document, list) else document["annotations"])


def test_what_is_dropped_is_said_when_verbose(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--score", "0", "--iou", "1", "--max-detections", "3"]
    assert predict(checkpoints, "yolov8_hgnetv2_b0", *options) == 0
    assert "dropped" not in capsys.readouterr().err
    assert predict(checkpoints, "yolov8_hgnetv2_b0", *options, verbose=True) == 0
    # 64 x 64 pixels are 84 cells on strides 8, 16 and 32, with two classes.
    assert "165 boxes that suppression left are dropped" in capsys.readouterr().err
    assert found_in(checkpoints) == 3


def test_more_than_three_hundred_may_be_kept(checkpoints: Path) -> None:
    file = checkpoints / "many.safetensors"
    Detector("yolov8_hgnetv2_b0", classes=list("abcdefgh"), image_size=64).save(file)
    limits = ["--score", "0", "--iou", "1"]
    assert predict(checkpoints, "many", *limits, "--max-detections", "1000") == 0
    assert found_in(checkpoints) == 84 * 8
    assert predict(checkpoints, "many", *limits) == 0
    assert found_in(checkpoints) == 300
