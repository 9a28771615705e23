"""Graphs for boards: what they compute, which operations they have, and what travels with them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import flexdetr
from fakes.board import spoil
from flexdetr.api import Detector
from flexdetr.cli import main
from flexdetr.data.scenes import draw_scene
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.board_form import split
from flexdetr.export.board_ops import check_ops
from flexdetr.export.errors import ExportError
from flexdetr.export.make import DriftError, ExportSource, export
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.targets import TARGETS
from flexdetr.presets import PRESETS
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.host import choose, finish

InFloat32 = Callable[[Detector, np.ndarray, float], Detections]

FORBIDDEN = {
    "Min",
    "Max",
    "GridSample",
    "TopK",
    "GatherElements",
    "GatherND",
    "NonZero",
    "Einsum",
    "Where",
    "If",
    "Loop",
}


@pytest.fixture(scope="module")
def board(exported: Callable[[str], Artifact]) -> Artifact:
    return exported("board")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return draw_scene(np.random.default_rng(3), (100, 140)).image


def test_the_graphs_do_what_the_model_does(
    board: Artifact, detector: Detector, scene: np.ndarray, in_float32: InFloat32
) -> None:
    assert board.parity is not None
    assert board.parity.passed
    assert board.parity.score < 1e-3
    assert board.parity.box < 1e-2
    expected = in_float32(detector, scene, 0.3)
    loaded = flexdetr.load(board.path)
    assert isinstance(loaded, ArtifactDetector)
    found = loaded.predict(scene, 0.3)
    assert len(found) == len(expected) > 0
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.scores == pytest.approx(expected.scores, abs=1e-3)
    assert found.boxes_xyxy == pytest.approx(expected.boxes_xyxy, abs=1e-2)
    together = loaded.predict_batch([scene, scene], 0.3)
    assert [len(one) for one in together] == [len(found)] * 2


def test_only_plain_operations_of_fixed_shapes(board: Artifact) -> None:
    for name in ("encode.onnx", "decode.onnx"):
        path = board.path / name
        assert check_ops(path, "generic") == []
        kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
        assert not kinds & FORBIDDEN
        assert "LayerNormalization" not in kinds


def test_numpy_alone_runs_what_lies_between_the_graphs(
    board: Artifact, detector: Detector, scene: np.ndarray, in_float32: InFloat32
) -> None:
    """As on a board: the shipped file, and nothing of this package."""
    import onnxruntime

    spec = importlib.util.spec_from_file_location("shipped", board.path / "host.py")
    assert spec is not None
    assert spec.loader is not None
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    from PIL import Image

    picture = np.asarray(Image.fromarray(scene).resize((96, 64), Image.Resampling.BILINEAR), np.float32)
    encode, decode = (
        onnxruntime.InferenceSession(str(board.path / f"{name}.onnx")) for name in ("encode", "decode")
    )
    memory, tokens, scores, boxes = encode.run(None, {"image": picture.transpose(2, 0, 1)[None]})
    content, reference = host.choose(tokens, scores, boxes, decode.get_inputs()[0].shape[1])
    logits, boxes = decode.run(None, {"content": content, "reference": reference, "memory": memory})
    boxes_xyxy, found, labels = host.finish(logits[0], boxes[0], *scene.shape[:2])
    expected = in_float32(detector, scene, 0.3)
    count = len(expected)
    assert found[:count] == pytest.approx(expected.scores, abs=1e-3)
    assert boxes_xyxy[:count] == pytest.approx(expected.boxes_xyxy, abs=1e-2)
    assert labels[:count].tolist() == expected.indices.tolist()


def test_choice_and_finish_by_hand() -> None:
    tokens = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    scores = np.array([[[0, 1], [5, 0], [0, 5], [2, 0]]], np.float32)
    boxes = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    content, reference = choose(tokens, scores, boxes, 3)
    assert content[0].tolist() == [[2, 3], [4, 5], [6, 7]], "the earlier of two equal ones comes first"
    assert reference[0, 0].tolist() == [4, 5, 6, 7]
    logits = np.array([[-1000.0, 0.0], [1000.0, -2.0]], np.float32)
    boxes_xyxy, found, labels = finish(
        logits, np.array([[0.5, 0.5, 0.5, 2], [0, 0, 1, 1]], np.float32), 10, 20, 3
    )
    assert found == pytest.approx([1, 0.5, 1 / (1 + np.exp(2))])
    assert labels.tolist() == [0, 1, 1]
    assert boxes_xyxy.tolist() == [[0, 0, 10, 5], [5, 0, 15, 10], [0, 0, 10, 5]]


@pytest.mark.parametrize("sampling", ["model", "discrete"])
@torch.inference_mode()
def test_other_forms_compute_the_same(make: Callable[..., Detector], sampling: str) -> None:
    """Three levels with points of their own, norms kept, discrete sampling."""
    model = make(
        (64, 96),
        encoder={"strides": (8, 16, 32), "width": 32, "ffn": 48, "heads": 4},
        head={
            "width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0, "points": (2, 3, 1),
        },
    ).model  # fmt: skip
    form = prepare(model, Options((64, 96), raw=True, sampling=sampling))  # type: ignore[arg-type]
    picture = torch.randint(
        0, 256, (1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = form(picture)
    encode, decode = split(form, plain_norms=False)
    memory, tokens, scores, boxes = encode(picture.permute(0, 3, 1, 2).float())
    content, reference = choose(tokens.numpy(), scores.numpy(), boxes.numpy(), 20)
    answer = decode(torch.tensor(content), torch.tensor(reference), memory)
    for one, other in zip(expected, answer, strict=True):
        assert torch.allclose(one, other, atol=2e-4)
    assert any(isinstance(part, torch.nn.LayerNorm) for part in encode.modules())


@pytest.mark.slow
def test_a_graph_that_was_changed_is_refused_with_the_layer(
    subject: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, "memory_proj.bias", lambda count: np.arange(count, dtype=np.float32))
    with pytest.raises(DriftError, match=r"head\.memory_proj"):
        export(subject, "onnx", tmp_path / "board", target="rockchip")
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "onnx", "target": "rokchip"}, "did you mean 'rockchip'"),
        ({"format": "openvino", "target": "npu"}, "a target is for format onnx"),
        ({"format": "board"}, "format onnx with a target"),
        ({"format": "onnx", "target": "npu", "precision": "fp16"}, "their toolchains quantise"),
        ({"format": "onnx", "target": "npu", "dynamic_size": True}, "fixed sizes"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_options_that_do_not_go_together(
    subject: ExportSource, tmp_path: Path, options: dict, said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        export(subject, out=tmp_path / "board", **options)


def test_a_board_artifact_runs_on_onnxruntime_only(board: Artifact) -> None:
    with pytest.raises(ArtifactError, match="which openvino does not run"):
        ArtifactDetector(board.path, runtime="openvino")
    with pytest.raises(ArtifactError, match="warp"):
        ArtifactDetector(board.path).runtime("warp")


def graph(
    *nodes: onnx.NodeProto, shape: tuple[object, ...], rank: int = 2, opset: int = 18
) -> onnx.ModelProto:
    output = [None] * rank
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "hand-made",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )


def test_the_checker_names_operation_and_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.onnx"
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="/backbone/stem/Relu"),
        helper.make_node(
            "Einsum", ["a", "a"], ["y"], name="/decoder/layers.0/attention/Einsum", equation="ab,ab->ab"
        ),
    ]
    onnx.save(graph(*nodes, shape=(2, 3)), str(path))
    (finding,) = check_ops(path, "npu")
    assert (finding.op, finding.layer, finding.why) == (
        "Einsum",
        "decoder.layers.0.attention",
        "not on the list",
    )
    assert main(["check", str(path), "--target", "horizon", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["layer"] == "decoder.layers.0.attention"
    assert main(["check", str(path), "--target", "horizn"]) == 1
    assert "did you mean 'horizon'" in capsys.readouterr().err


def test_the_checker_sees_ranks_free_sides_opsets_and_strangers(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(graph(helper.make_node("Relu", ["x"], ["y"]), shape=(1, 2, 3, 4, 5), rank=5), str(path))
    assert check_ops(path, "generic")[0].why == "a tensor of 5 axes"
    onnx.save(graph(helper.make_node("Relu", ["x"], ["y"]), shape=("batch", 2)), str(path))
    assert check_ops(path, "generic")[0].why == "a side that is not fixed"
    onnx.save(graph(helper.make_node("Relu", ["x"], ["y"]), shape=(1, 2), opset=10), str(path))
    assert "opset 10" in check_ops(path, "rockchip")[0].why
    onnx.save(graph(helper.make_node("Mish", ["x"], ["y"], domain="mine"), shape=(1, 2)), str(path))
    assert check_ops(path, "generic")[0].op == "mine.Mish"


def test_the_checker_answers_what_is_no_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, said in (
        ("text", "cannot be read as ONNX"),
        ("empty", "cannot be read"),
        ("gone", "does not exist"),
    ):
        with pytest.raises(ExportError, match=said):
            check_ops(tmp_path / f"{name}.onnx", "generic")
    assert main(["check", str(tmp_path), "--target", "npu"]) == 2
    assert "--target is for ONNX files" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
def test_no_list_has_what_boards_lack(target: str) -> None:
    assert not TARGETS[target].ops & FORBIDDEN


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name, row in PRESETS.items() if hasattr(row.head, "queries")])
def test_every_preset_in_plain_operations(
    whole: Callable[..., Detector], preset: str, tmp_path: Path
) -> None:
    """The writer refuses what is off the list, and the proof what computes something else."""
    detector = whole(preset, image_size=64)
    artifact = detector.export("onnx", tmp_path / preset, target="generic", queries=20)
    assert artifact.parity is not None
    assert artifact.parity.passed
