"""What every head keeps in a whole detector, beside the contract of all parts: classes, formats, int8, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexdetr.api import Detector
from flexdetr.config import Config
from flexdetr.data.detect import read
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.loading import load
from flexdetr.model.heads import heads_of, shared_options
from flexdetr.presets import resolve
from flexdetr.weights.transfer import depends_on_classes

SMALL = {"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 10}
CLASSES = ("cat", "dog", "owl")


def sections(name: str) -> dict[str, Any]:
    head = {"name": name, **shared_options(SMALL, name)}
    return {"image_size": 64, "backbone": "hgnetv2_atto", "head": head}


def detector(name: str, classes: tuple[str, ...] = CLASSES, seed: int = 0, **more: Any) -> Detector:
    torch.manual_seed(seed)
    return Detector("flexdetr_pico", classes=list(classes), **{**sections(name), **more})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("heads"), train=6, val=3, test=2, size=(96, 96))


@pytest.mark.parametrize("name", heads_of("detect"))
def test_what_was_learned_of_a_class_goes_along_with_its_name(name: str, tmp_path: Path) -> None:
    old = detector(name)
    file = old.save(tmp_path / "old.safetensors")
    new = detector(name, ("owl", "yak", "cat"), seed=1, weights=str(file))
    before, after = old.model.state_dict(), new.model.state_dict()
    rows = type(old.model.head).class_rows()
    with_rows = [key for key in before if depends_on_classes(key, rows)]
    assert with_rows
    for key in with_rows:
        assert torch.equal(after[key][0], before[key][2]), key
        assert torch.equal(after[key][2], before[key][0]), key
    assert any(not torch.equal(after[key][1], before[key][1]) for key in with_rows)
    others = before.keys() - set(with_rows)
    assert all(torch.equal(after[key], before[key]) for key in others if key in after)


@pytest.mark.slow
@pytest.mark.parametrize("name", heads_of("detect"))
@pytest.mark.parametrize("kind", ["onnx", "openvino", "board"])
def test_every_format_proves_itself(name: str, kind: str, tmp_path: Path) -> None:
    made_of_queries = detector(name).model.head.limits is None
    if kind == "board" and not made_of_queries:  # one graph of plain operations, suppressed outside
        target: dict[str, Any] = {"raw": True}
    else:
        target = {"target": "generic"} if kind == "board" else {}
    made = detector(name).export("onnx" if kind == "board" else kind, tmp_path / "artifact", **target)
    assert made.parity is not None
    assert made.parity.passed


@pytest.mark.slow
@pytest.mark.parametrize("name", heads_of("detect"))
def test_int8_proves_itself(name: str, data: Path, tmp_path: Path) -> None:
    made = detector(name, read(data).classes.names).export(
        "openvino", tmp_path / "artifact", precision="int8", data=str(data)
    )
    assert made.metadata.precision == "int8"
    assert len(load(made.path).evaluate(data, split="test").per_class) > 0


def settings(name: str) -> Config:
    train = {"epochs": 2, "batch_size": 3, "eval_every": 2, "report": False}
    return resolve("flexdetr_pico", data={"workers": 0}, train=train, **sections(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", heads_of("detect"))
def test_a_stopped_run_goes_on_bit_for_bit(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit.train(data, settings(name), out=tmp_path / "whole", quiet=True)
    step, steps = fit.Trainer._step, 0

    def counted(self: fit.Trainer, batch: Any) -> None:
        nonlocal steps
        step(self, batch)
        steps += 1
        self.stop_requested = self.stop_requested or steps == 3

    monkeypatch.setattr(fit.Trainer, "_step", counted)
    with pytest.raises(fit.Interrupted, match="--resume"):
        fit.train(data, settings(name), out=tmp_path / "parts", quiet=True)
    monkeypatch.undo()
    resumed = fit.resume(tmp_path / "parts", quiet=True)
    first, second = run_state.load(whole.folder)["model"], run_state.load(resumed.folder)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
