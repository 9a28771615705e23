"""``flexdetr serve`` as a person starts it: a real artifact, in a process of its own, without torch."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.cli import main
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.runtime.artifact import Artifact

for _module in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(_module, reason="the serve extra is not installed: pip install 'flexdetr[serve]'")

_PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "scipy", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from flexdetr.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_artifact_is_served_without_torch(exported: Callable[[str], Artifact], tmp_path: Path) -> None:
    path = exported("openvino").path
    file = tmp_path / "scene.png"
    Image.fromarray(draw_scene(np.random.default_rng(0), (96, 128)).image).save(file)
    options = ["--port", "0", "--name", "scenes", "--threshold", "0.3"]
    words = [sys.executable, "-c", _PROGRAM, "serve", str(path), *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = None
            for line in process.stderr:
                if match := re.search(r"serving scenes on (http://127\.0\.0\.1:\d+/)", line):
                    address = match[1]
                    break
            assert address is not None
            with urllib.request.urlopen(f"{address}predict", data=file.read_bytes(), timeout=60) as response:
                document = json.load(response)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{address}predict", data=b"no picture", timeout=60)
            assert refused.value.code == 415
            refused.value.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    expected = ArtifactDetector(path, cache=False).predict(str(file), 0.3)
    assert [one["name"] for one in document["objects"]] == expected.names
    boxes = np.array([one["box_xyxy"] for one in document["objects"]]).reshape(-1, 4)
    assert boxes == pytest.approx(expected.boxes_xyxy, abs=1e-2)


def test_what_cannot_be_served_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "anything", "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
    wrong = {
        "--name": ("a/b", "--name takes letters"),
        "--token": ("", "is empty"),
        "--host": ("no.invalid", "is not an address"),
    }
    for option, (value, words) in wrong.items():
        assert main(["serve", "anything", option, value]) == 2
        assert words in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "anything"]) == 1
    assert "pip install 'flexdetr[serve]'" in capsys.readouterr().err
