"""The Rockchip toolkit takes the graphs, and its simulator computes what onnxruntime does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flexdetr.api import Detector

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "boards" / "rknn_build.py"
PYTHON = os.environ.get("FLEXDETR_RKNN_PYTHON", str(ROOT / "build" / "rknn" / "bin" / "python"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(PYTHON) is None,
        reason="rknn-toolkit2 is not installed: make rknn, see examples/README.md",
    ),
]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The example, in the toolkit's own environment."""
    return subprocess.run(
        [PYTHON, str(SCRIPT), str(folder), "rk3588"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
        timeout=600,
    )


def test_both_graphs_build_and_agree(make: Callable[..., Detector], tmp_path: Path) -> None:
    folder = make().export("onnx", tmp_path / "board", target="rockchip").path
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    drift = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"encode')))
    assert drift.pop("detections") >= 10
    assert drift.pop("missing") == 0
    assert max(drift.values()) < 0.02
    assert "No lowering found" not in done.stdout + done.stderr
    assert (folder / "encode.rknn").stat().st_size > 1000
    assert (folder / "decode.rknn").stat().st_size > 1000


def test_a_detector_that_was_never_trained_is_told(make: Callable[..., Detector], tmp_path: Path) -> None:
    """Its first boxes do not depend on the picture, and the toolkit leaves such an output out of the file."""
    detector = make()
    with torch.no_grad():
        detector.model.get_parameter("head.encoder_box.layers.2.weight").zero_()  # as it begins
    done = run(detector.export("onnx", tmp_path / "board", target="rockchip").path)
    assert done.returncode == 1
    assert "gives 3 of 4 outputs" in done.stderr
    assert "train the detector first" in done.stderr
