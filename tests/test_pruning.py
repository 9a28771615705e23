"""A detector is pruned to a target and fine-tuned, and its file is one like any other; the clock is made up here."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flexdetr
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.export import latency
from flexdetr.model.detector import DetectionModel
from flexdetr.model.size import measure_module
from flexdetr.presets import resolve
from flexdetr.pruning import FILE, Pruned, PruneError, prune
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.weights.container import WeightsError
from flexdetr.weights.transformers_export import to_transformers

pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'flexdetr[prune]'")

PARTS: dict[str, Any] = {
    "backbone": "hgnetv2_atto",
    "encoder": {"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0},
    "image_size": 64,
    "data": {"workers": 0},
}
SHORT: dict[str, Any] = {"batch_size": 3, "lr": 1e-3, "report": False}


@pytest.fixture(scope="module", autouse=True)
def _milliseconds_are_gflops() -> Iterator[None]:
    """A network takes as many milliseconds as it has tenths of a GFLOP for 64 pixels."""

    def times(calls: dict[str, DetectionModel], _: object) -> dict[str, float]:
        return {name: 1e3 * measure_module(model, (64, 64)).gflops for name, model in calls.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "compiled", lambda model, **_: model)
        patch.setattr(latency, "times", times)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("prune"), train=9, val=2, test=1, size=(96, 96))


@pytest.fixture(scope="module")
def whole(data: Path) -> Detector:
    torch.manual_seed(0)
    detector = Detector("flexdetr_atto", classes=load_classes(data), **PARTS)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in detector.model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.bias.copy_(0.2 * torch.randn(part.bias.shape, generator=draw))
        for name, value in detector.model.head.named_parameters():  # scores that are spread
            if "score" in name and name.endswith("weight"):
                value.copy_(0.6 * torch.randn(value.shape, generator=draw))
    return detector


def load_classes(data: Path) -> dict[int, str]:
    text = (data / "annotations" / "instances_train.json").read_text()
    return {row["id"]: row["name"] for row in json.loads(text)["categories"]}


@pytest.fixture(scope="module")
def pruned(whole: Detector, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    out = tmp_path_factory.mktemp("run") / "pruned"
    return prune(whole, data, out=out, target_share=0.7, epochs=3, quiet=True, **SHORT)


def answers(detector: Detector) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        final = detector.model.eval()(images).final
    return final.logits, final.boxes


def same(one: Detector, other: Detector) -> None:
    torch.testing.assert_close(answers(one), answers(other), rtol=0, atol=1e-6)


def test_it_is_as_fast_as_asked_and_smaller(pruned: Pruned, whole: Detector) -> None:
    before, cut, tuned = pruned.stages
    assert [one.name for one in pruned.stages] == ["whole", "pruned", "fine-tuned"]
    assert cut.milliseconds <= pruned.target_ms == pytest.approx(0.7 * before.milliseconds)
    assert cut.gflops < 0.75 * before.gflops
    assert cut.params < before.params
    assert (tuned.params, tuned.gflops) == (cut.params, cut.gflops)
    assert 0 < pruned.share < 0.75
    assert pruned.deviation < 1e-9
    assert not whole.config.pruned, "the detector that was given stays as it is"
    kept = json.loads((pruned.run.folder / FILE).read_text())
    assert kept["stages"][1]["gflops"] == cut.gflops


def test_the_fine_tuning_learns(pruned: Pruned) -> None:
    with (pruned.run.folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]


def test_its_file_gives_the_same_detector(pruned: Pruned, whole: Detector, tmp_path: Path) -> None:
    loaded = flexdetr.load(pruned.run.best)
    same(loaded, pruned.detector)
    loaded.save(tmp_path / "again.safetensors")
    again = flexdetr.load(tmp_path / "again.safetensors")
    same(again, pruned.detector)
    assert again.config.pruned == pruned.detector.config.pruned
    for path, kept in again.config.pruned.items():
        there = again.model.get_submodule(path).weight.shape[: len(kept)]
        before = whole.model.get_submodule(path).weight.shape[: len(kept)]
        assert tuple(there) == kept
        assert there.numel() < before.numel()


@pytest.fixture(scope="module")
def artifact(pruned: Pruned, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return pruned.detector.export("openvino", tmp_path_factory.mktemp("pruned") / "openvino", data=data)


def test_its_export_is_proven_and_answers(pruned: Pruned, artifact: Artifact) -> None:
    assert artifact.parity is not None
    assert artifact.parity.passed
    picture = np.full((96, 96, 3), 120, np.uint8)
    there = flexdetr.load(artifact.path).predict(picture, threshold=0.0, precision="fp32")
    here = pruned.detector.predict(picture, threshold=0.0, precision="fp32")
    np.testing.assert_allclose(there.scores[:5], here.scores[:5], atol=1e-3)


def test_a_training_starts_from_it_and_is_resumed(
    pruned: Pruned, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve("flexdetr_atto", **PARTS, weights=str(pruned.run.best), train={"epochs": 2, **SHORT})
    step = fit.Trainer._step
    stopped: list[bool] = []

    def stopping(self: fit.Trainer, batch: Any) -> float:
        loss = step(self, batch)
        if not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(fit.Trainer, "_step", stopping)
    with pytest.raises(fit.Interrupted):
        fit.train(data, config, out=tmp_path / "run", quiet=True)
    run = fit.resume(tmp_path / "run", quiet=True)
    tuned = flexdetr.load(run.best)
    assert tuned.config.pruned == pruned.detector.config.pruned
    assert measure_module(tuned.model, (64, 64)) == measure_module(pruned.detector.model, (64, 64))


def test_its_weights_make_a_detector_as_narrow_and_refuse_another(pruned: Pruned, data: Path) -> None:
    classes = load_classes(data)
    same(Detector("flexdetr_atto", classes=classes, weights=pruned.run.best, **PARTS), pruned.detector)
    with pytest.raises(WeightsError, match="is a pruned flexdetr_atto, which does not fit a rtdetr_r18"):
        Detector("rtdetr_r18", classes=classes, weights=pruned.run.best, image_size=64)


@pytest.mark.slow
def test_it_can_be_pruned_again(pruned: Pruned, data: Path, tmp_path: Path) -> None:
    again = prune(
        pruned.run.best, data, out=tmp_path / "again", target_share=0.85, epochs=1, quiet=True, **SHORT
    )
    assert again.stages[1].gflops < pruned.stages[1].gflops
    assert again.detector.config.pruned.keys() >= pruned.detector.config.pruned.keys()
    same(flexdetr.load(again.run.best), again.detector)


def test_transformers_has_no_such_layers(pruned: Pruned, tmp_path: Path) -> None:
    one = pruned.detector
    with pytest.raises(WeightsError, match="pruned layers"):
        to_transformers(one.model.state_dict(), one.config, one.classes, tmp_path / "out")


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({}, ConfigError, "target_ms or target_share"),
        ({"target_ms": 1.0, "target_share": 0.5}, ConfigError, "one of them"),
        ({"target_ms": 0.0}, ConfigError, "above 0; got 0"),
        ({"target_ms": -3.0}, ConfigError, "above 0; got -3"),
        ({"target_ms": float("nan")}, ConfigError, "above 0; got nan"),
        ({"target_share": 1.0}, ConfigError, "between 0 and 1"),
        ({"target_share": 0.7, "epochs": 0}, ConfigError, "at least 1"),
        ({"target_share": 0.7, "threads": -1}, ConfigError, "threads"),
        ({"target_share": 0.7, "precision": "fp8"}, ConfigError, "fp32, bf16, int8; got 'fp8'"),
        ({"target_share": 0.7, "epoch": 3}, ConfigError, "epoch"),
        ({"target_share": 0.7, "head": {"layers": 2}}, ConfigError, "head is part of what is pruned"),
        ({"target_ms": 1e6}, PruneError, "nothing to prune"),
        ({"target_ms": 1e-3}, PruneError, r"cannot be reached by pruning: without 75% .* takes \d"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    whole: Detector, data: Path, tmp_path: Path, asked: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        prune(whole, data, out=tmp_path / "out", quiet=True, **asked)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_detector_are_refused(
    pruned: Pruned, artifact: Artifact, data: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"data": data, "out": tmp_path / "out", "target_share": 0.7}
    with pytest.raises(WeightsError, match="does not exist"):
        prune(tmp_path / "none.safetensors", **asked)
    classifier = flexdetr.Classifier("pphgnet_tiny_cls", classes=["a", "b"], image_size=64)
    classifier.save(tmp_path / "classifier.safetensors")
    with pytest.raises(PruneError, match="only detectors can be pruned"):
        prune(tmp_path / "classifier.safetensors", **asked)
    with pytest.raises(ArtifactError, match="prune the checkpoint that it was made from"):
        prune(artifact.path, **asked)
    with pytest.raises(ConfigError, match="holds a run already"):
        prune(pruned.detector, data, out=pruned.run.folder, target_share=0.7)


def test_the_command(
    whole: Detector,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = whole.save(tmp_path / "whole.safetensors")
    out = tmp_path / "out"
    command = ["prune", str(file), "--data", str(data), "--out", str(out)]
    assert main([*command, "--target-ms", "-1"]) == 2
    assert main([*command, "--target-share", "0.8", "--precision", "int9"]) == 2
    assert "did you mean 'int8'" in capsys.readouterr().err
    sets = [word for key, value in SHORT.items() for word in ("--set", f"train.{key}={value}")]
    assert main([*command, "--target-share", "0.8", "--epochs", "1", *sets, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stages"][1]["milliseconds"] <= said["target_ms"]
    assert main(["info", said["best"], "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["pruned_layers"] > 0
    assert described["params_deploy"] == said["stages"][1]["params"]
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert main([*command[:-1], str(tmp_path / "other"), "--target-share", "0.8"]) == 1
    assert "pip install 'flexdetr[prune]'" in capsys.readouterr().err


@pytest.mark.slow
def test_int8_of_a_pruned_detector_is_proven(pruned: Pruned, data: Path, tmp_path: Path) -> None:
    artifact = pruned.detector.export(
        "openvino", tmp_path / "int8", precision="int8", data=data, max_drop=1.0, calibration=4
    )
    assert artifact.parity.passed
