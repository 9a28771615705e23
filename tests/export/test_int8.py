"""Int8: the files compute in eight bits, the AP decides, and what loses most goes back to float."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.export import int8
from flexdetr.export.calibration import CalibrationPictures, calibration_of
from flexdetr.export.errors import ExportError
from flexdetr.export.int8 import Quantising
from flexdetr.export.make import DriftError, ExportSource, export
from flexdetr.export.prepare import DeployForm, Options, prepare
from flexdetr.export.sensitivity import Sensitivity
from flexdetr.runtime.artifact import Artifact, open_artifact
from flexdetr.runtime.parity import Accuracy, Precision


@pytest.fixture(scope="session")
def data(labelled: Path) -> Path:
    return labelled


@pytest.mark.slow
def test_openvino_computes_in_int8(
    detector: Detector, data: Path, tmp_path: Path, exported: Callable[[str], Artifact]
) -> None:
    path = detector.save(tmp_path / "best.safetensors")
    arguments = ["export", str(path), "--format", "openvino", "--precision", "int8", "--data", str(data)]
    assert main([*arguments, "--calibration", "4", "--max-drop", "0.9"]) == 0
    artifact = open_artifact(tmp_path / "best-openvino-int8")
    graph = openvino.Core().read_model(artifact.model_file)
    eight = [
        op for op in graph.get_ops() if op.get_type_name() == "Constant" and op.get_element_type().size == 1
    ]
    assert sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops()) > 20
    assert len(eight) > 20
    made = artifact.metadata.made["int8"]
    assert made["calibration"].startswith("4 pictures of ")
    assert made["rounds"][0]["float"] == []
    assert 0 < made["layers"]["int8"] < made["layers"]["all"]
    parity = artifact.parity
    assert parity is not None
    assert parity.passed
    assert {drift.case for drift in parity.drifts} == {"one by one", "a batch of 4", "resized by the graph"}
    assert [row.case for row in parity.accuracies] == ["float32", "int8"]
    assert parity.accuracies[0].ap is not None
    assert parity.accuracies[0].ap > 0.99
    assert (
        artifact.metadata.files["model.bin"].bytes
        < 0.5 * exported("openvino").metadata.files["model.bin"].bytes
    )
    # Any number of pictures: each batch has a shape of its own.
    pictures = [draw_scene(np.random.default_rng(i), (96, 128)).image for i in range(3)]
    loaded = ArtifactDetector(artifact.path, precision="fp32", cache=False)
    for one, other in zip(
        [loaded.predict(picture, 0.3) for picture in pictures],
        [*loaded.predict_batch(pictures[:2], 0.3), *loaded.predict_batch(pictures[2:], 0.3)],
        strict=True,
    ):
        # Equal to the last bit on the CPUs that were tried; another kernel for another batch may round otherwise.
        assert other.scores == pytest.approx(one.scores, abs=1e-4)
        assert other.boxes_xyxy == pytest.approx(one.boxes_xyxy, abs=1e-2)
    # Heads, sampling and norms have no quantiser in front of them.
    readers = {
        reader.get_node().get_friendly_name()
        for op in graph.get_ops()
        if op.get_type_name() == "FakeQuantize"
        for reader in op.output(0).get_target_inputs()
    }
    assert any("backbone" in name for name in readers)
    assert not [name for name in readers if ".offsets/" in name or ".scores." in name or ".boxes." in name]
    assert not [name for name in readers if "preprocess" in name or "encoder_box" in name]


@pytest.mark.slow
def test_onnx_computes_in_int8(subject: ExportSource, data: Path, tmp_path: Path) -> None:
    artifact = export(
        subject, "onnx", tmp_path / "out", precision="int8", data=data, calibration=4, max_drop=0.9
    )
    proto = onnx.load(str(artifact.model_file))
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    assert kinds.count("DequantizeLinear") > 20
    assert {one.domain for one in proto.opset_import} <= {"", "ai.onnx"}
    parity = artifact.parity
    assert parity is not None
    assert parity.passed
    assert {drift.case for drift in parity.drifts} == {"one by one", "a batch of 4", "in OpenVINO"}


@pytest.fixture
def quantising(
    detector: Detector, data: Path, exported: Callable[[str], Artifact], tmp_path: Path
) -> Callable[..., Quantising]:
    """(said) -> an export whose quantisation does nothing."""
    import shutil

    folder = tmp_path / "draft"
    shutil.copytree(exported("openvino").path, folder)
    calibration = calibration_of(data, detector.classes, detector.config, raw=False, count=3)

    def make(attempts: list[tuple[str, ...]], precisions: tuple[Precision, ...] = ("fp32",)) -> Quantising:
        def quantise(
            path: Path, form: DeployForm, pictures: CalibrationPictures, kept: Sequence[str]
        ) -> None:
            assert path.is_file()
            attempts.append(tuple(kept))

        return Quantising(
            folder,
            prepare(detector.model, Options((64, 96), resize_inside=True)),
            quantise,
            lambda: None,
            calibration,
            calibration.records,
            0.003,
            precisions,
            lambda _: None,
        )

    return make


def scored(ap: float | None) -> Accuracy:
    return Accuracy(case="", pictures=3, ap=ap, ap50=0.9)


RANKING = [Sensitivity(f"backbone.stages.{i}", 2, 1.0 / (i + 1)) for i in range(20)]


@pytest.mark.parametrize(
    ("scores", "returned", "passed"),
    [
        ([0.5, 0.4985], [0], True),
        ([0.5, 0.47, 0.49, 0.498], [0, 1, 3], True),
        ([0.5, 0.51], [0], True),
        ([0.5, 0.3, 0.3, 0.3, 0.3], [0, 1, 3, 7], False),
    ],
)
def test_parts_return_to_float_until_the_loss_is_allowed(
    quantising: Callable[..., Quantising],
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    returned: list[int],
    passed: bool,
) -> None:
    attempts: list[tuple[str, ...]] = []
    left = iter(scores)
    monkeypatch.setattr(int8, "accuracy_in", lambda *_: scored(next(left)))
    ranking = RANKING[: 15 if not passed else 20]
    monkeypatch.setattr(int8, "rank", lambda *_: ranking)
    result = quantising(attempts).until_accurate()
    assert [len(kept) for kept in attempts] == returned
    assert all(kept == tuple(one.part for one in ranking[: len(kept)]) for kept in attempts)
    assert result.passed is passed
    document = result.describe()
    assert [one["ap"] for one in document["rounds"]] == scores[1:]
    assert json.loads(json.dumps(document)) == document
    if returned[-1]:
        kinds = [one["precision"] for one in document["sensitivity"]]
        assert kinds == ["float"] * returned[-1] + ["int8"] * (len(ranking) - returned[-1])


@pytest.mark.parametrize(
    ("in_fp32", "in_bf16", "chosen"),
    [
        ([0.5, 0.499], [0.498], 0),
        ([0.5, 0.499, 0.499], [0.4, 0.498], 1),  # the search goes on for bf16 alone
        (
            [0.5, 0.4, 0.499, 0.499, 0.499, 0.499],
            [0.4, 0.4, 0.4, 0.4, 0.4],
            1,
        ),  # the first that float32 allows
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4, 0.4], 4),
    ],
)
def test_the_search_covers_every_precision_that_may_be_chosen(
    quantising: Callable[..., Quantising],
    monkeypatch: pytest.MonkeyPatch,
    in_fp32: list[float],
    in_bf16: list[float],
    chosen: int,
) -> None:
    left = {"fp32": iter(in_fp32), "bf16": iter(in_bf16)}
    monkeypatch.setattr(int8, "accuracy_in", lambda precision, *_: scored(next(left[precision])))
    monkeypatch.setattr(int8, "rank", lambda *_: [*RANKING, *RANKING])
    attempts: list[tuple[str, ...]] = []
    process = quantising(attempts, ("fp32", "bf16"))

    def quantise(path: Path, form: DeployForm, pictures: CalibrationPictures, kept: Sequence[str]) -> None:
        attempts.append(tuple(kept))
        (path.parent / "mark").write_text(str(len(attempts) - 1))

    found = dataclasses.replace(process, quantise=quantise).until_accurate()
    assert found.chosen is found.rounds[chosen]
    assert (process.folder / "mark").read_text() == str(chosen), "the files are those of the chosen round"
    assert {one.name for one in process.folder.parent.iterdir()} == {"draft"}
    rows = found.describe()["rounds"]
    assert [row["drop_in_bf16"] for row in rows] == pytest.approx([0.5 - one for one in in_bf16])


def test_nothing_to_score_is_said(
    quantising: Callable[..., Quantising], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "accuracy_in", lambda *_: scored(None))
    with pytest.raises(ExportError, match="no object of the model's classes"):
        quantising([]).until_accurate()


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("openvino", {}, "give --data DATA"),
        ("torch", {"data": "x"}, "no int8 in the format torch; use onnx or openvino"),
        ("openvino", {"data": "x", "max_drop": 3.0}, "between 0 and 1; got 3"),
        ("openvino", {"precision": "fp32", "calibration": 9}, "calibration is for precision int8"),
        (
            "onnx",
            {"precision": "fp16", "max_drop": 0.1},
            "max_drop is for precision int8; the precision is fp16",
        ),
    ],
)
def test_options_that_do_not_fit(
    subject: ExportSource, tmp_path: Path, kind: str, options: dict, said: str
) -> None:
    with pytest.raises(ExportError) as caught:
        export(subject, kind, tmp_path / "out", **({"precision": "int8"} | options))
    assert said in str(caught.value)


def test_calibration_is_spread_over_the_training_split(detector: Detector, data: Path) -> None:
    few = calibration_of(data, detector.classes, detector.config, raw=False, count=3)
    assert [record.path.name for record in few.records] == ["0.png", "2.png", "5.png"]
    assert few.source.startswith("3 pictures of ")
    assert few.source.endswith("split train")
    (first, *_), again = few, list(few)
    assert first["images"].shape == (1, 64, 96, 3)
    assert first["images"].dtype == np.uint8
    assert first["sizes"].tolist() == [[96, 128]]
    assert np.array_equal(first["images"], again[0]["images"])
    raw = calibration_of(data, detector.classes, detector.config, raw=True, count=99)
    assert len(raw) == 6
    assert set(next(iter(raw))) == {"images"}
    with pytest.raises(ExportError, match="at least one picture; got 0"):
        calibration_of(data, detector.classes, detector.config, raw=False, count=0)


@pytest.mark.slow
def test_what_loses_most_goes_back_to_float(subject: ExportSource, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="more than --max-drop 0") as caught:
        export(
            subject, "openvino", tmp_path / "out", precision="int8", data=data, calibration=4, max_drop=0.0
        )
    assert not (tmp_path / "out").exists()
    assert caught.value.int8 is not None
    rounds, ranking = caught.value.int8["rounds"], caught.value.int8["sensitivity"]
    assert [len(one["float"]) for one in rounds] == [0, 1, 3, 7, 12][: len(rounds)]
    assert len(rounds) > 2
    assert rounds[-1]["drop"] < rounds[0]["drop"]
    moved = [one["distance"] for one in ranking]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0
