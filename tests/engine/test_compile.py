"""Training with compiled parts: the same network, exact resume, and a sentence where nothing can compile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexdetr.config import Config, ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.compile import compile_parts
from flexdetr.model.detector import DetectionModel
from flexdetr.presets import resolve


def config(**train: object) -> Config:
    return resolve(
        "flexdetr_pico",
        image_size=64,
        backbone="hgnetv2_atto",
        encoder={"strides": (16, 32), "width": 16, "ffn": 16, "heads": 2},
        head={"width": 16, "ffn": 16, "heads": 2, "layers": 1, "queries": 10, "denoising": 0},
        data={"workers": 0, "multi_scale": False},
        train={"epochs": 2, "batch_size": 2, "report": False, **train},
    )


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    data = draw_scenes(tmp_path / "data", train=4, val=2, test=2, size=(96, 96))
    with pytest.raises(ConfigError, match="no 'no-such-compiler': install g"):
        fit.train(data, config(compile=True), out=tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_the_network_is_the_same() -> None:
    torch.manual_seed(0)
    model = DetectionModel(config(), 2).train()
    images = torch.rand(2, 3, 64, 64)
    names = list(model.state_dict())
    eager = model.encoder(model.backbone(images))
    compile_parts(model, torch.device("cpu"))
    assert list(model.state_dict()) == names
    for one, other in zip(model.encoder(model.backbone(images)), eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_scenes(tmp_path / "data", train=4, val=2, test=2, size=(96, 96))
    whole = fit.train(data, config(compile=True), out=tmp_path / "whole", quiet=True)
    step, count = fit.Trainer._step, 0

    def counted(self: fit.Trainer, batch: object) -> None:
        nonlocal count
        step(self, batch)  # type: ignore[arg-type]
        count += 1
        self.stop_requested = count == 3

    monkeypatch.setattr(fit.Trainer, "_step", counted)
    with pytest.raises(fit.Interrupted):
        fit.train(data, config(compile=True), out=tmp_path / "parts", quiet=True)
    parts = fit.resume(tmp_path / "parts", quiet=True)
    one, other = (run_state.load(run.folder)["model"] for run in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
