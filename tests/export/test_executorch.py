"""ExecuTorch programs: written, proven, and run by its own runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import flexdetr
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.errors import ExportError
from flexdetr.export.make import DriftError, Subject, export
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.feeds import FeedError

pytest.importorskip("executorch", reason="ExecuTorch is not installed: pip install 'flexdetr[executorch]'")


@pytest.fixture(scope="module")
def small(make: Callable[..., Detector]) -> Detector:
    decoder = {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0}
    return make((64, 96), decoder=decoder)


@pytest.fixture(scope="module")
def subject(small: Detector) -> Subject:
    return Subject(small.model, small.config, small.classes, small.metadata)


@pytest.fixture(scope="module")
def artifact(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(subject, "executorch", tmp_path_factory.mktemp("executorch") / "out")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return draw_scene(np.random.default_rng(3), (100, 140)).image


def test_the_programs_do_what_the_model_does(artifact: Artifact, small: Detector, scene: np.ndarray) -> None:
    assert list(artifact.metadata.files) == ["encode.pte", "decode.pte", "host.py"]
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.parity.score < 1e-3
    assert artifact.parity.box < 0.5
    stored = json.loads((artifact.path / "metadata.json").read_text())["parity"]
    assert [one["case"] for one in stored["drifts"]] == ["one by one", "a batch of 4"]
    expected = small.predict(scene, threshold=0.3)
    loaded = flexdetr.load(artifact.path, threads=1)
    assert isinstance(loaded, ArtifactDetector)
    found = loaded.predict([scene] * 10, 0.3)  # from several threads
    assert len(expected) > 0
    for one in found:
        assert one.labels.tolist() == expected.labels.tolist()
        assert one.scores == pytest.approx(expected.scores, abs=1e-3)
        assert one.boxes_xyxy == pytest.approx(expected.boxes_xyxy, abs=0.5)


def test_bad_input_is_answered(artifact: Artifact) -> None:
    loaded = ArtifactDetector(artifact.path)
    assert "XNNPACK" in loaded.runtime().description
    with pytest.raises(FeedError, match="uint8"):
        loaded.runtime().infer(np.zeros((1, 64, 96, 3), np.float32))
    with pytest.raises(ArtifactError, match="ExecuTorch has no device 'cuda'"):
        loaded.runtime("cuda")
    with pytest.raises(ArtifactError, match="which onnxruntime does not run"):
        ArtifactDetector(artifact.path, runtime="onnxruntime")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp16"}, "written in fp32"),
        ({"precision": "int8"}, "no int8 in the format executorch"),
        ({"dynamic_size": True}, "fixed sizes"),
        ({"target": "npu"}, "a target is for format onnx"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(subject: Subject, tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        export(subject, "executorch", tmp_path / "out", **options)


def test_programs_of_another_model_are_refused(
    subject: Subject,
    artifact: Artifact,
    make: Callable[..., Detector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The files of one detector for a detector with another norm: told at the command line, with the layer."""
    import torch

    from flexdetr.export import executorch as writer

    def stale(form: object, folder: Path, precision: str, float32: object) -> list[str]:
        for name in artifact.metadata.files:
            (folder / name).write_bytes((artifact.path / name).read_bytes())
        return list(artifact.metadata.files)

    monkeypatch.setattr(writer, "write", stale)
    changed = make((64, 96), decoder=subject.config.decoder.model_dump())
    with torch.no_grad():
        changed.model.get_parameter("decoder.memory_norm.weight").mul_(-1)
    file = changed.save(tmp_path / "changed.safetensors")
    assert main(["export", str(file), "--format", "executorch", "--out", str(tmp_path / "out")]) == 1
    assert "in or before decoder.memory_norm (LayerNorm)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(DriftError):
        changed.export("executorch", tmp_path / "out")
