"""What is proved is what runs: exports are proven in each precision that a runtime may choose, and name it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.export import proof, writing
from flexdetr.export.make import ExportSource, export
from flexdetr.export.openvino import owner
from flexdetr.export.prepare import DeployForm, Options, prepare
from flexdetr.runtime.artifact import Artifact, open_artifact, write_metadata
from flexdetr.runtime.cpu import SWITCH, bf16_supported, cpu_features
from flexdetr.runtime.openvino import VERSION, shared_core
from flexdetr.runtime.parity import Precision, Proven, Tolerance
from flexdetr.runtime.trial import REFERENCE

needs_bf16 = pytest.mark.skipif(not bf16_supported(), reason="this CPU does not compute in bf16")


def computed_in(path: Path, hint: str = "bf16") -> list[tuple[str, str, str]]:
    """(module, kind of layer, precision) of all that OpenVINO runs for a module."""
    graph = shared_core().read_model(path)
    graph.reshape({"images": [1, 64, 96, 3], "sizes": [1, 2]})
    compiled = shared_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    rows = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        known = {key: str(node.get_rt_info()[key].astype(str)) for key in ("layerType", "runtimePrecision")}
        names = str(node.get_rt_info()["originalLayersNames"].astype(str)).split(",")
        first = next((owner(name) for name in names if owner(name)), "")
        rows.append((first, known["layerType"], known["runtimePrecision"]))
    return rows


@pytest.fixture(scope="module")
def form(detector: Detector) -> DeployForm:
    return prepare(detector.model, Options((64, 96), resize_inside=True))


@needs_bf16
def test_boxes_scores_and_places_stay_in_float32(
    exported: Callable[[str], Artifact], form: DeployForm
) -> None:
    rows = computed_in(exported("openvino").model_file)
    narrow = {(module, kind) for module, kind, precision in rows if precision == "bf16"}
    computing = {
        "FullyConnected",
        "MatMul",
        "Convolution",
        "Subgraph",
        "Eltwise",
        "Softmax",
        "TopK",
        "Gather",
    }
    assert not {
        (module, kind) for module, kind in narrow if kind in computing and form.is_sensitive(module)
    } - {
        # OpenVINO makes another operation of a softmax, which forgets that it was to be precise.
        (f"detector.head.layers.{layer}.cross_attention", "Softmax")
        for layer in range(2)
    }
    wide = {module for module, kind, precision in rows if precision == "f32" and kind == "MatMul"}
    heads = {"encoder_score", "encoder_box.layers.2", "scores.1", "boxes.0.layers.0", "boxes.1.layers.2"}
    assert {f"detector.head.{path}" for path in heads} <= wide
    others = [
        precision
        for module, kind, precision in rows
        if kind in ("FullyConnected", "Convolution") and not form.is_sensitive(module)
    ]
    assert others.count("bf16") == len(others) > 30, "the rest is computed in bf16"


def test_proofs_are_stored_with_where_they_were_made(
    exported: Callable[[str], Artifact], settled_artifact: Artifact
) -> None:
    metadata = settled_artifact.metadata
    assert set(metadata.precisions) == {"fp32", *(["bf16"] if bf16_supported() else [])}
    for one in metadata.precisions.values():
        assert one.passed
        assert (one.runtime, one.features) == (VERSION, cpu_features())
        assert {drift.case for drift in one.drifts} == {"one by one", "a batch of 4", "resized by the graph"}
        assert sum(drift.compared for drift in one.drifts) > 100
    assert metadata.reference is not None
    assert metadata.reference.file == REFERENCE
    assert REFERENCE in metadata.files
    assert exported("openvino").model_file.name == "model.xml"
    assert set(exported("onnx").metadata.precisions) == {"fp32"}
    assert exported("onnx").metadata.reference is None


@pytest.fixture(scope="module")
def made_without_bf16(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    """What the command writes on a CPU without bf16, and what it says."""
    path = detector.save(tmp_path_factory.mktemp("without") / "best.safetensors")
    with pytest.MonkeyPatch.context() as there, redirect_stderr(io.StringIO()) as said:
        there.setenv(SWITCH, "off")
        assert main(["export", str(path), "--format", "openvino"]) == 0
    return open_artifact(path.with_name("best-openvino")), said.getvalue()


def test_the_command_tells_what_may_be_chosen(
    detector: Detector,
    made_without_bf16: tuple[Artifact, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = detector.save(tmp_path / "best.safetensors")
    assert main(["export", str(path), "--format", "openvino", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["precisions"]["fp32"]["passed"]
    assert ("bf16" in document["precisions"]) is bf16_supported()
    assert "this CPU does not compute in bf16" in made_without_bf16[1]


@pytest.mark.slow
@needs_bf16
def test_a_file_that_fails_in_bf16_is_kept_for_float32(
    subject: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    strict = dict(proof.TOLERANCES) | {"bf16": Tolerance(score=0.0, box=0.0)}
    monkeypatch.setattr(proof, "TOLERANCES", strict)
    said: list[str] = []
    artifact = export(subject, "openvino", tmp_path / "out", announce=said.append)
    failed = artifact.metadata.precisions["bf16"]
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert not failed.passed
    assert failed.reason is not None
    assert failed.reason.startswith("one by one: of ")
    assert f"no runtime will choose bf16: {failed.reason}" in said
    opened = ArtifactDetector(artifact.path, cache=False)
    assert opened.runtime().description == "OpenVINO on CPU in fp32"
    assert "its proof in bf16 failed" in caplog.text


@pytest.mark.slow
@needs_bf16
def test_labelled_pictures_judge_bf16_too(
    subject: ExportSource, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing.accuracy_in

    def worse(*arguments: Any) -> Any:
        found = real(*arguments)
        return found.model_copy(update={"ap": (found.ap or 0) - 0.2})

    judge, made = writing.Writing.prove_others, []

    def kept(*arguments: Any) -> dict[Precision, Proven]:
        made.append(arguments)
        return judge(*arguments)

    with monkeypatch.context() as watched:
        watched.setattr(writing.Writing, "prove_others", kept)
        artifact = export(subject, "openvino", tmp_path / "good", data=labelled)
    good = artifact.metadata.precisions["bf16"]
    assert good.passed
    assert good.accuracy is not None
    assert good.accuracy.case == "artifact in bf16"
    monkeypatch.setattr(writing, "accuracy_in", worse)
    ((its_writing, *arguments),) = made
    its_writing = replace(its_writing, folder=artifact.path)
    few = judge(its_writing, *arguments)["bf16"]
    assert few.passed, "four pictures decide nothing"
    monkeypatch.setattr(writing, "JUDGED", 4)
    bad = judge(its_writing, *arguments)["bf16"]
    assert not bad.passed
    assert re.fullmatch(r"it loses 0\.[12]\d+ AP on 4 pictures, and 0\.01 are allowed", str(bad.reason))


@needs_bf16
def test_an_artifact_from_a_cpu_without_bf16_is_tried_once(
    made_without_bf16: tuple[Artifact, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = draw_scene(np.random.default_rng(0), (96, 128)).image
    artifact = open_artifact(shutil.copytree(made_without_bf16[0].path, tmp_path / "out"))
    assert set(artifact.metadata.precisions) == {"fp32"}
    cache = tmp_path / "cache"
    for _ in range(2):
        detector = ArtifactDetector(artifact.path, cache=cache)
        assert detector.runtime().description == "OpenVINO on CPU in bf16"
    (kept,) = cache.glob("trial-*.json")
    assert json.loads(kept.read_text())["passed"] is True
    assert "computes in fp32" not in caplog.text

    reference = artifact.metadata.reference
    assert reference is not None
    strict = reference.model_copy(update={"tolerance": Tolerance(score=0.0, box=0.0)})
    write_metadata(
        artifact.path, open_artifact(artifact.path).metadata.model_copy(update={"reference": strict})
    )
    for _ in range(2):
        caplog.clear()
        detector = ArtifactDetector(artifact.path, cache=cache)
        found = detector.predict(picture, 0.3)
        (line,) = (one for one in caplog.messages if "computes in" in one)
        assert "computes in fp32, not in bf16: tried in bf16 on its reference pictures: of " in line
        assert found.scores.tolist() == detector.predict(picture, 0.3, precision="fp32").scores.tolist()
    assert len(list(cache.glob("trial-*.json"))) == 2


@needs_bf16
def test_both_forms_of_sampling_pass(settled: Detector, settled_artifact: Artifact, tmp_path: Path) -> None:
    other = settled.export("openvino", tmp_path / "model", sampling="model")
    for artifact, sampling in ((settled_artifact, "gather"), (other, "model")):
        assert artifact.metadata.made["sampling"] == sampling
        assert artifact.metadata.precisions["bf16"].passed
