"""Suppression inside written graphs, and left to the runtime: both keep what PyTorch keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from flexdetr.api import Detector
from flexdetr.export.errors import ExportError
from flexdetr.export.onnx import to_proto
from flexdetr.export.suppression import openvino_extension
from flexdetr.model.outputs import Prediction
from flexdetr.model.suppression import after_suppression
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.nms import Limits

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


def test_a_raw_graph_leaves_it_to_the_runtime(dense: Detector, tmp_path: Path) -> None:
    """The metadata says what by, and the answers are those of the graph with it inside."""
    whole = dense.export("onnx", tmp_path / "whole")
    raw = dense.export("onnx", tmp_path / "raw", raw=True)
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


def test_two_graphs_have_no_queries_to_choose(dense: Detector, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"head=yolov8 has no queries; export onnx with raw=True"):
        dense.export("onnx", tmp_path / "board", target="generic")
