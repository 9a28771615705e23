"""The Rockchip toolkit takes the graphs, and its simulator computes what onnxruntime does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from flexdetr.api import Detector

SCRIPT = Path(__file__).parents[2] / "examples" / "boards" / "rknn_build.py"
PYTHON = os.environ.get("FLEXDETR_RKNN_PYTHON", "")


@pytest.mark.skipif(
    shutil.which(PYTHON) is None,
    reason="FLEXDETR_RKNN_PYTHON names no Python with rknn-toolkit2, see examples/README.md",
)
def test_both_graphs_build_and_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(
        "flexdetr_pico",
        classes=["cat", "dog"],
        image_size=(64, 96),
        backbone="hgnetv2_atto",
        encoder={"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4},
        decoder={"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0},
    )
    folder = detector.export("onnx", tmp_path / "board", target="rockchip").path
    done = subprocess.run(
        [PYTHON, str(SCRIPT), str(folder), "rk3588"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    drift = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"encode')))
    assert drift.pop("detections") >= 10
    assert drift.pop("missing") == 0
    assert max(drift.values()) < 0.02
    assert "No lowering found" not in done.stdout + done.stderr
    assert (folder / "encode.rknn").stat().st_size > 1000
    assert (folder / "decode.rknn").stat().st_size > 1000
