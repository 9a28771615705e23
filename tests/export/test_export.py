"""Each format, exported and proven on a tiny detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from torch import nn

from flexdetr.api import Detector
from flexdetr.export.errors import ExportError
from flexdetr.export.make import ExportSource, export
from flexdetr.export.prepare import Options, prepare
from flexdetr.runtime.artifact import METADATA, Artifact, open_artifact

Exported = Callable[[str], Artifact]
# One decoder layer, where a second one would be written as the first is.
SHALLOW = {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0}


def subject_of(detector: Detector) -> ExportSource:
    return ExportSource(detector.model, detector.config, detector.classes, detector.metadata)


def proven(artifact: Artifact) -> set[str]:
    """The ways in which it was run, all within float32's tolerance."""
    parity = artifact.parity
    assert parity is not None
    assert parity.passed
    assert parity.culprit is None
    for drift in parity.drifts:
        assert drift.compared >= 10, "too few detections to prove anything"
        assert drift.score <= 1e-3
        assert drift.box <= 1e-2
    return {drift.case for drift in parity.drifts}


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("openvino", {"one by one", "a batch of 4", "resized by the graph"}),
        ("onnx", {"one by one", "a batch of 4", "in OpenVINO"}),
        ("torch", {"one by one", "a batch of 4", "resized by the graph"}),
    ],
)
def test_proves_itself(exported: Exported, kind: str, cases: set[str]) -> None:
    artifact = exported(kind)
    assert proven(artifact) == cases
    assert artifact.parity is not None
    assert min(drift.floor for drift in artifact.parity.drifts) == 0.3


@pytest.mark.parametrize("kind", ["openvino", "onnx", "torch"])
def test_says_what_it_is(exported: Exported, detector: Detector, kind: str) -> None:
    document = json.loads((exported(kind).path / METADATA).read_text())
    assert document["format_version"] == 2
    assert document["format"] == kind
    assert document["classes"] == [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "dog"},
        {"id": 7, "name": "owl"},
    ]
    assert document["input"]["size"] == [64, 96]
    assert document["input"]["colour_order"] == "RGB"
    assert document["input"]["normalisation"] == detector.metadata.normalisation
    assert document["outputs"]["box_format"] == "xyxy pixels of the original picture"
    assert document["made"]["decoder_layers"] == 2
    assert document["made"]["queries"] == 20
    assert document["parity"]["drifts"][0]["compared"] > 0
    assert all(len(entry["sha256"]) == 64 for entry in document["files"].values())
    assert open_artifact(exported(kind).path).metadata.seal == document["seal"]


def test_onnx_is_plain(exported: Exported, detector: Detector) -> None:
    proto = onnx.load(str(exported("onnx").model_file))
    assert proto.opset_import[0].version >= 17
    assert len(proto.opset_import) == 1, "no operator domain but ONNX's own"
    norms = sum(isinstance(part, nn.LayerNorm) for part in detector.model.modules())
    assert sum(node.op_type == "LayerNormalization" for node in proto.graph.node) == norms
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes["images"] == ["batch", 64, 96, 3]
    assert shapes["sizes"] == ["batch", 2]
    assert shapes["boxes"][0] == shapes["scores"][0] == shapes["labels"][0] == "batch"
    text = str(proto)
    assert str(Path.home()) not in text
    assert ".py" not in text, "no trace of the machine that it was made on"


def test_openvino_resizes_inside(exported: Exported, detector: Detector) -> None:
    graph = openvino.Core().read_model(exported("openvino").model_file)
    assert [str(port.get_partial_shape()) for port in graph.inputs] == ["[?,?,?,3]", "[?,2]"]
    kinds = [node.get_type_name() for node in graph.get_ops()]
    norms = sum(isinstance(part, nn.LayerNorm) for part in detector.model.modules())
    assert kinds.count("MVN") == norms
    modes = [
        node.get_attributes()["mode"] for node in graph.get_ops() if node.get_type_name() == "Interpolate"
    ]
    assert "bilinear_pillow" in modes


@pytest.mark.parametrize("kind", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_square_raw_graph_of_gathers(make: Callable[..., Detector], tmp_path: Path, kind: str) -> None:
    artifact = export(
        subject_of(make((64, 64), head=SHALLOW)), kind, tmp_path / "out", raw=True, sampling="gather"
    )
    proven(artifact)
    assert artifact.metadata.outputs.names == ("logits", "boxes")
    assert artifact.metadata.input.sizes is None
    if kind == "onnx":
        kinds = {node.op_type for node in onnx.load(str(artifact.model_file)).graph.node}
    else:
        kinds = {node.get_type_name() for node in openvino.Core().read_model(artifact.model_file).get_ops()}
    assert "GridSample" not in kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "kind", "size"),
    [
        ("timm/convnext_atto", "openvino", (64, 64)),
        ("ghostnetv3_050", "onnx", (64, 96)),
        ("resnet18_vd", "onnx", (64, 64)),
    ],
)
def test_every_kind_of_backbone(
    make: Callable[..., Detector],
    tmp_path: Path,
    backbone: str,
    kind: str,
    size: tuple[int, int],
) -> None:
    assert {"one by one", "a batch of 4"} <= proven(
        make(size, backbone=backbone).export(kind, tmp_path / "out")
    )


@pytest.mark.parametrize("kind", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_dynamic_size(make: Callable[..., Detector], tmp_path: Path, kind: str) -> None:
    artifact = export(subject_of(make((64, 96), head=SHALLOW)), kind, tmp_path / "out", dynamic_size=True)
    assert "at 96x160" in proven(artifact)
    assert artifact.metadata.input.smallest == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_layers": 3}, "between 1 and 2; got 3"),
        ({"queries": 0}, "at least 1; got 0"),
        ({"size": (64, 100)}, "divisible by 32; got 64x100"),
        ({"dynamic_size": True, "queries": 200}, "sides of at least 128; got 64x96"),
        ({"dynamic_size": True, "resize_inside": True}, "cannot resize them as well"),
    ],
)
def test_options_that_do_not_fit(detector: Detector, changes: dict, said: str) -> None:
    with pytest.raises(ExportError) as caught:
        prepare(detector.model, Options(**{"size": (64, 96)} | changes))
    assert said in str(caught.value)


def test_wrong_words_and_places_are_answered_before_any_work(subject: ExportSource, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="openvino"):
        export(subject, "openvin", tmp_path / "out")
    with pytest.raises(ExportError, match="fp32, fp16, int8; got 'int7'"):
        export(subject, "onnx", tmp_path / "out", precision="int7")
    occupied = tmp_path / "photos"
    occupied.mkdir()
    (occupied / "cat.jpg").write_bytes(b"x")
    with pytest.raises(ExportError, match="holds other files"):
        export(subject, "onnx", occupied)
    with pytest.raises(ExportError, match="is a file"):
        export(subject, "onnx", occupied / "cat.jpg")
    assert (occupied / "cat.jpg").read_bytes() == b"x"


@pytest.mark.slow
def test_each_format_samples_as_its_runtimes_are_fast(
    exported: Exported, make: Callable[..., Detector], tmp_path: Path
) -> None:
    kinds = {
        node.get_type_name() for node in openvino.Core().read_model(exported("openvino").model_file).get_ops()
    }
    assert "GridSample" not in kinds
    assert exported("openvino").metadata.made["sampling"] == "gather"
    assert "GridSample" in {node.op_type for node in onnx.load(str(exported("onnx").model_file)).graph.node}
    subject = subject_of(make((64, 64), head={**SHALLOW, "sampling": "discrete"}))
    assert export(subject, "openvino", tmp_path / "nearest").metadata.made["sampling"] == "model"


def test_gathers_compute_what_grid_samples_do(make: Callable[..., Detector]) -> None:
    model = make().model
    form, other = (prepare(model, Options((64, 96), sampling=way)) for way in ("model", "gather"))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    import torch

    feeds = torch.from_numpy(images), torch.tensor([[64, 96]] * 2)
    for one, two in zip(form(*feeds), other(*feeds), strict=True):
        assert torch.allclose(one.double(), two.double(), atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 96), (200, 333), (40, 50), (500, 61)])
def test_resizing_inside_is_pillows(detector: Detector, shape: tuple[int, int]) -> None:
    import torch

    from flexdetr.data.scenes import draw_scene
    from flexdetr.runtime.process import prepare as resize

    drawn = draw_scene(np.random.default_rng(0), (500, 400)).image
    image = resize(drawn, shape).transpose(1, 2, 0)
    form = prepare(detector.model, Options((64, 96), resize_inside=True))
    inside = form.preprocess(torch.tensor(image)[None]) * 255
    outside = detector.model.normalise(torch.tensor(resize(image, (64, 96)))[None]) * 255
    # Pillow rounds to whole levels after each of its two passes.
    assert (inside - outside).abs().max() <= (0 if shape == (64, 96) else 1.01)
    assert (inside - outside).abs().mean() < 0.4
