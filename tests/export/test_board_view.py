"""ExecuTorch and LiteRT: two compiled graphs, written, proven, and run by the toolchain's own runtime.

LiteRT's converter takes an older torch than the other tests have: `make test-litert` runs this file beside it.
"""

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
from flexdetr.export.formats import format_of, writer_of
from flexdetr.export.make import DriftError, ExportSource, export
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.feeds import FeedError

FORMATS = {
    # name: module of the converter, files, what the runtime calls itself
    "executorch": ("executorch", ["encode.pte", "decode.pte", "host.py"], "ExecuTorch"),
    "litert": ("litert_torch", ["encode.tflite", "decode.tflite", "host.py"], "LiteRT"),
}


@pytest.fixture(scope="module", params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    """A format whose converter is here."""
    pytest.importorskip(FORMATS[request.param][0], reason=f"pip install 'flexdetr[{request.param}]'")
    return request.param


@pytest.fixture(scope="module")
def small(make: Callable[..., Detector]) -> Detector:
    head = {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0}
    return make((64, 96), head=head)


@pytest.fixture(scope="module")
def subject(small: Detector) -> ExportSource:
    return ExportSource(small.model, small.config, small.classes, small.metadata)


@pytest.fixture(scope="module")
def artifact(kind: str, subject: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(subject, kind, tmp_path_factory.mktemp(kind) / "out")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return draw_scene(np.random.default_rng(3), (100, 140)).image


@pytest.mark.slow
def test_the_graphs_do_what_the_model_does(
    kind: str, artifact: Artifact, small: Detector, scene: np.ndarray
) -> None:
    assert list(artifact.metadata.files) == FORMATS[kind][1]
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.parity.score < 1e-4  # measured: 9e-7
    assert artifact.parity.box < 1e-2  # measured: 9e-5 px
    stored = json.loads((artifact.path / "metadata.json").read_text())["parity"]
    assert [one["case"] for one in stored["drifts"]] == ["one by one", "a batch of 4"]
    expected = small.predict(scene, threshold=0.3, precision="fp32")
    loaded = flexdetr.load(artifact.path, threads=1)
    assert isinstance(loaded, ArtifactDetector)
    found = loaded.predict([scene] * 10, 0.3)  # from several threads
    assert len(expected) > 0
    for one in found:
        assert one.labels.tolist() == expected.labels.tolist()
        assert one.scores == pytest.approx(expected.scores, abs=1e-5)  # measured: 2e-7
        assert one.boxes_xyxy == pytest.approx(expected.boxes_xyxy, abs=1e-3)  # measured: 2e-5 px


@pytest.mark.slow
def test_bad_input_is_answered(kind: str, artifact: Artifact) -> None:
    loaded = ArtifactDetector(artifact.path)
    assert "XNNPACK" in loaded.runtime().description
    with pytest.raises(FeedError, match="uint8"):
        loaded.runtime().infer(np.zeros((1, 64, 96, 3), np.float32))
    with pytest.raises(ArtifactError, match=f"{FORMATS[kind][2]} has no device 'cuda'"):
        loaded.runtime("cuda")
    with pytest.raises(ArtifactError, match="which onnxruntime does not run"):
        ArtifactDetector(artifact.path, runtime="onnxruntime")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp16"}, "written in fp32"),
        ({"precision": "int8"}, "no int8 in the format {name}"),
        ({"dynamic_size": True}, "fixed sizes"),
        ({"target": "npu"}, "a target is for format onnx"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FORMATS)
def test_options_that_do_not_go_together(
    name: str, subject: ExportSource, tmp_path: Path, options: dict, said: str
) -> None:
    with pytest.raises(ExportError, match=said.format(name=name)):
        export(subject, name, tmp_path / "out", **options)


@pytest.mark.slow
def test_graphs_of_another_model_are_refused(
    kind: str,
    subject: ExportSource,
    artifact: Artifact,
    make: Callable[..., Detector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The files of one detector for a detector with another norm: told at the command line, with the layer."""
    import torch

    def stale(form: object, folder: Path, precision: str, float32: object) -> list[str]:
        for name in artifact.metadata.files:
            (folder / name).write_bytes((artifact.path / name).read_bytes())
        return list(artifact.metadata.files)

    monkeypatch.setattr(writer_of(format_of(kind)), "write", stale)
    changed = make((64, 96), head=subject.config.head.model_dump())
    with torch.no_grad():
        changed.model.get_parameter("head.memory_norm.weight").mul_(-1)
    file = changed.save(tmp_path / "changed.safetensors")
    assert main(["export", str(file), "--format", kind, "--out", str(tmp_path / "out")]) == 1
    assert "in or before head.memory_norm (LayerNorm)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(DriftError):
        changed.export(kind, tmp_path / "out")
