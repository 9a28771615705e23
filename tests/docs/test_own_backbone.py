"""The documented backbone of your own: twenty lines, as an object and by name, and how its checkpoint is loaded."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import flexdetr
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scenes
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "swap-parts.md"
NAME = "my_nets:SmallNet"
SMALL = {
    "image_size": 64,
    "encoder": {"strides": [16, 32], "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 10, "denoising": 0},
}


@pytest.fixture
def my_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's code in a file ``my_nets.py`` in the working directory; returns the code."""
    section = PAGE.read_text(encoding="utf-8").partition("## A backbone of your own")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    (tmp_path / "my_nets.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    monkeypatch.delenv("FLEXDETR_TRUST", raising=False)
    return code


def test_it_has_twenty_lines(my_nets: str) -> None:
    assert len([line for line in my_nets.splitlines() if line.strip()]) <= 20


def test_it_trains_by_its_name_with_nothing_else_typed(
    my_nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_scenes(tmp_path / "data", train=4, val=2, test=2, size=(96, 96))
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SMALL.items() if key != "image_size"]
    swapped = [f"--set=backbone={NAME}", "--set=backbone.options.width=8", "--set=data.workers=0"]
    run = ["--image-size", "64", "--epochs", "1", "--batch-size", "2", "--out", "run"]
    assert main(["train", str(data), "--model", "flexdetr_nano", *swapped, *settings, *run]) == 0
    checkpoint = "run/best.safetensors"
    assert store.read_metadata(Path(checkpoint)).config["backbone"]["name"] == NAME
    capsys.readouterr()
    assert main(["info", checkpoint]) == 1
    assert f"FLEXDETR_TRUST={NAME}" in capsys.readouterr().err
    monkeypatch.setenv("FLEXDETR_TRUST", f"other:thing,{NAME}")
    assert main(["eval", checkpoint, str(data)]) == 0


def test_as_an_object_and_back_from_its_file(my_nets: str, tmp_path: Path) -> None:
    import my_nets as nets  # type: ignore[import-not-found]

    net = nets.SmallNet()
    detector = Detector("flexdetr_nano", classes=["cat", "dog"], backbone=net, **SMALL)
    assert detector.model.backbone.body is net
    assert detector.model.backbone.channels == (128, 256)
    path = detector.save(tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match="If you trust it"):
        flexdetr.load(path)
    again = flexdetr.load(path, backbone=NAME)
    assert isinstance(again, Detector)
    assert again.model.state_dict().keys() == detector.model.state_dict().keys()


def test_a_file_cannot_name_what_is_run(tmp_path: Path) -> None:
    """Whoever made the file chose the function and its arguments: loading must not call it."""
    detector = Detector("flexdetr_pico", classes=["cat"], image_size=64)
    touched = tmp_path / "touched"
    config = detector.metadata.config
    config["backbone"] = {"name": "pathlib:Path.touch", "options": {"self": str(touched)}}
    path = store.save(tmp_path / "bad.safetensors", detector.model.state_dict(), detector.metadata)
    for loading in (lambda: flexdetr.load(path), lambda: flexdetr.load(path, image_size=96)):
        with pytest.raises(WeightsError, match=r"names the backbone pathlib:Path\.touch"):
            loading()
    assert main(["info", str(path)]) == 1
    assert not touched.exists()
