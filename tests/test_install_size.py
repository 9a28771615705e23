"""A base install, made from this folder: it is small, holds no torch and predicts from an artifact."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes.tiny import tiny

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
MOST = 350  # MB
UNREACHABLE = re.compile("failed to fetch|dns error|error sending request|timed out", re.IGNORECASE)


@pytest.mark.slow
@pytest.mark.skipif(not UV.exists(), reason="uv is not installed")
def test_the_base_install_is_small_and_predicts_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "install_sizes.py", "base", "--keep", tmp_path / "made"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if UNREACHABLE.search(made.stderr):
        pytest.skip("the package index cannot be reached")
    assert made.returncode == 0, made.stderr
    (size,) = re.findall(r"`flexdetr` \| ([\d,]+) \|", made.stdout)
    assert 100 < int(size.replace(",", "")) < MOST

    artifact = tiny().export("openvino", tmp_path / "artifact")
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "one.png")
    (python,) = (tmp_path / "made" / "base").glob("*/python" if sys.platform != "win32" else "*/python.exe")
    program = (
        "import sys; from flexdetr.cli import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; "
        "import importlib.util; assert importlib.util.find_spec('torch') is None; sys.exit(status)"
    )
    words = ["predict", str(artifact.path), str(tmp_path / "one.png"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [python, "-c", program, *words], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))["images"]
    assert found["file_name"].endswith("one.png")
