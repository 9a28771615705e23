"""Suppression inside written graphs, and left to the runtime: both keep what PyTorch keeps."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from fakes.board import spoil
from flexdetr.api import Detector
from flexdetr.export.board_ops import check_ops
from flexdetr.export.make import DriftError
from flexdetr.export.onnx import to_proto
from flexdetr.export.suppression import openvino_extension
from flexdetr.model.outputs import Prediction
from flexdetr.model.suppression import after_suppression
from flexdetr.runtime.artifact import Artifact, Suppression, open_artifact, write_metadata
from flexdetr.runtime.nms import Limits
from flexdetr.runtime.process import prepare

LIMITS = Limits(0.05, 0.5, 40)


class Answer(nn.Module):
    """What stands behind a dense head's network."""

    def forward(self, logits: Tensor, boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return after_suppression(Prediction(logits, boxes), sizes, LIMITS, 300)


def crowd(images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of which most overlap; the second image is empty."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.rand(images, 20, 2, generator=draw).repeat(1, 6, 1)
    centres += 0.01 * torch.randn(centres.shape, generator=draw)
    sides = 0.1 + 0.2 * torch.rand(centres.shape, generator=draw)
    logits = 2 * torch.randn(images, 120, 3, generator=draw) - 2
    logits[1] = -20
    sizes = torch.tensor([[90, 120], [64, 64], [48, 32]])[:images]
    return logits, torch.cat([centres, sides], -1), sizes


def same(got: list[np.ndarray], want: tuple[Tensor, ...]) -> None:
    boxes, scores, labels = (part.numpy() for part in want)
    np.testing.assert_allclose(got[1], scores, atol=1e-6)
    there = scores > 0
    assert 0 < there.sum() < there.size
    np.testing.assert_allclose(got[0][there], boxes[there], atol=1e-3)
    np.testing.assert_array_equal(got[2][there], labels[there])


def test_onnx_keeps_the_same_for_any_batch() -> None:
    inputs = crowd(3)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(Answer(), inputs, dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    names = ("logits", "boxes", "sizes")
    proto = to_proto(program, (), names, ("boxes_xyxy", "scores", "labels"), dynamic_size=False)
    assert "NonMaxSuppression" in {node.op_type for node in proto.graph.node}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for images in (3, 2):
        part = [each[:images] for each in inputs]
        got = session.run(None, dict(zip(names, (each.numpy() for each in part), strict=True)))
        same(got, Answer()(*part))


def test_openvino_keeps_the_same_for_any_batch() -> None:
    inputs = crowd(3)
    graph = openvino.convert_model(
        Answer(),
        example_input=inputs,
        input=[openvino.PartialShape([-1, *each.shape[1:]]) for each in inputs],
        extension=openvino_extension(),
    )
    assert "NonMaxSuppression" in {node.get_type_name() for node in graph.get_ops()}
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for images in (3, 2):
        part = [each[:images] for each in inputs]
        answers = compiled([each.numpy() for each in part])
        same([answers[i] for i in range(3)], Answer()(*part))


@pytest.fixture(scope="module")
def dense() -> Detector:
    """A small dense detector whose scores spread."""
    torch.manual_seed(0)
    detector = Detector(
        "yolov8_n",
        classes=["cat", "dog"],
        image_size=64,
        backbone="hgnetv2_atto",
        encoder={"strides": (8, 16), "width": 16, "project": True},
        head={"score": 0.02, "iou": 0.6, "max_detections": 50},
    )
    with torch.no_grad():
        for score in detector.model.head.scores:
            score.weight.mul_(20)
            score.bias.fill_(-1)
    return detector


@pytest.fixture(scope="module")
def raw(dense: Detector, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return dense.export("onnx", tmp_path_factory.mktemp("dense") / "raw", raw=True)


def test_a_raw_graph_leaves_it_to_the_runtime(dense: Detector, raw: Artifact, tmp_path: Path) -> None:
    """The metadata says what by, and the answers are those of the graph with it inside."""
    whole = dense.export("onnx", tmp_path / "whole")
    for artifact in (whole, raw):
        assert artifact.parity is not None
        assert artifact.parity.passed
        suppression = open_artifact(artifact.path).metadata.suppression
        assert suppression is not None
        assert suppression.limits == Limits(0.02, 0.6, 50)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    import flexdetr

    first, second = (flexdetr.load(artifact.path).predict(image, threshold=0.0) for artifact in (whole, raw))
    want = dense.predict(image, threshold=0.0, precision="fp32")
    assert len(want) == len(first) == len(second) > 0
    for found in (first, second):
        np.testing.assert_allclose(found.scores, want.scores, atol=1e-4)


def test_a_full_answer_of_a_graph_is_said(
    dense: Detector, raw: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The graph cannot tell how many it dropped; left to the runtime, it is counted."""
    dense.model.head.limits = Limits(0.0, 1.0, 5)
    try:
        whole = dense.export("onnx", tmp_path / "whole")
    finally:
        dense.model.head.limits = Limits(0.02, 0.6, 50)
    folder = shutil.copytree(raw.path, tmp_path / "raw")  # its graph knows no limits: the metadata has them
    suppression = Suppression(score=0.0, iou=1.0, max_detections=5)
    raw = write_metadata(folder, raw.metadata.model_copy(update={"suppression": suppression}))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    import flexdetr

    for artifact, said in (
        (whole, "all 5 boxes that this graph answers are taken"),
        (raw, "155 boxes that suppression left are dropped"),  # of 80 cells with two classes
    ):
        loaded = flexdetr.load(artifact.path)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="flexdetr"):
            assert len(loaded.predict(image, threshold=0.0)) == 5
        assert said in caplog.text


@pytest.mark.parametrize("target", ["rockchip", "qualcomm"])
def test_a_board_has_one_graph_and_suppression_behind_it(
    dense: Detector, tmp_path: Path, target: str
) -> None:
    """Proven, of plain operations, and what the shipped numpy files make of it is what the model answers."""
    artifact = dense.export("onnx", tmp_path / "board", target=target)
    assert list(artifact.metadata.files) == ["encode.onnx", "host.py", "nms.py"]
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert check_ops(artifact.model_file, target) == []
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    want = dense.predict(image, threshold=0.0, precision="fp32")
    import flexdetr

    found = flexdetr.load(artifact.path).predict(image, threshold=0.0)
    assert len(want) == len(found) > 0
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)  # measured: 6e-8

    host, nms = (shipped(artifact.path / name) for name in ("host.py", "nms.py"))
    session = onnxruntime.InferenceSession(str(artifact.model_file), providers=["CPUExecutionProvider"])
    planes = prepare(image, artifact.metadata.input.size)[None].astype(np.float32)
    logits, boxes = session.run(None, {"image": planes})
    scores = host.sigmoid(logits[0])
    box, label = nms.suppress(nms.corners(boxes[0]), scores, nms.Limits(0.02, 0.6, 50))
    np.testing.assert_allclose(scores[box, label], want.scores, atol=1e-5)
    pixels = host.boxes_to_pixels(boxes[0][box], 70, 90)
    np.testing.assert_allclose(pixels, want.boxes_xyxy, atol=1e-3)  # measured: 2e-5
    np.testing.assert_array_equal(label, want.indices)


def shipped(path: Path) -> ModuleType:
    """A file that travels with an artifact, alone."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_board_graph_that_was_changed_is_refused(
    dense: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "head.scores.0.bias", lambda _: np.array([2, -2], np.float32))
    with pytest.raises(DriftError, match=r"head\.scores\.\d"):
        dense.export("onnx", tmp_path / "board", target="generic")
    assert not (tmp_path / "board").exists()


@pytest.mark.slow
def test_executorch_has_one_program(dense: Detector, tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="pip install 'flexdetr[executorch]'")
    artifact = dense.export("executorch", tmp_path / "out")
    assert list(artifact.metadata.files) == ["encode.pte", "host.py", "nms.py"]
    assert artifact.parity is not None
    assert artifact.parity.passed
