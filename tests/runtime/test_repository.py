"""Artifacts in the repositories of model servers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from described import described
from flexdetr.cli import main
from flexdetr.runtime.artifact import (
    Artifact,
    ArtifactError,
)
from flexdetr.runtime.repository import Tensor, config_pbtxt, write


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A graph with the inputs and outputs of an exported detector; what it computes does not matter."""
    images = ops.parameter(openvino.PartialShape([-1, 32, 64, 3]), np.uint8, name="images")
    sizes = ops.parameter(openvino.PartialShape([-1, 2]), np.int64, name="sizes")
    scores = ops.reduce_mean(ops.convert(images, "f32"), np.array([1, 2, 3]), keep_dims=False)
    outputs = [ops.unsqueeze(scores, np.int64(1)), ops.convert(sizes, "f32"), ops.convert(scores, "i64")]
    graph = openvino.Model(outputs, [images, sizes], "tiny")
    for port, name in zip(graph.outputs, ("scores", "boxes", "labels"), strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.inputs, ("images", "sizes"), strict=True):
        port.get_tensor().set_names({name})
    folder = tmp_path / "cells"
    folder.mkdir()
    openvino.save_model(graph, folder / "a.xml")
    return described(folder, ["a.xml", "a.bin"], size=(32, 64), resize="outside", classes={5: "cell"})


def protocol() -> ModuleType:
    """Triton's own description of ``config.pbtxt``, which its client brings."""
    found = importlib.util.find_spec("tritonclient")
    if found is None:
        pytest.skip("Triton's protocol is not there: pip install --no-deps tritonclient")
    path = Path(next(iter(found.submodule_search_locations or ()))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_triton(artifact: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "models"
    assert main(["export", str(artifact.path), "--layout", "triton", "--out", str(out)]) == 0
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        f"cells/{name}" for name in ("1/model.xml", "1/model.bin", "config.pbtxt", "metadata.json")
    }
    assert openvino.Core().read_model(out / "cells" / "1" / "model.xml").inputs
    text = (out / "cells" / "config.pbtxt").read_text(encoding="utf-8")
    assert 'name: "cells"\nbackend: "openvino"\nmax_batch_size: 0\n' in text
    from google.protobuf import text_format

    pb = protocol()
    config = text_format.Parse(text, pb.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("cells", "openvino", 0)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        ("images", pb.TYPE_UINT8, [-1, 32, 64, 3]),
        ("sizes", pb.TYPE_INT64, [-1, 2]),
    ]
    assert {one.name: one.data_type for one in config.output} == {
        "scores": pb.TYPE_FP32, "boxes": pb.TYPE_FP32, "labels": pb.TYPE_INT64,
    }  # fmt: skip


def test_every_kind_of_tensor_is_known_to_triton() -> None:
    ports = [Tensor(f"p{i}", kind, (-1,)) for i, kind in enumerate(("u8", "i32", "i64", "f16", "f32"))]
    text = config_pbtxt("a", "onnxruntime", ports, ports)
    from google.protobuf import text_format

    assert len(text_format.Parse(text, protocol().ModelConfig()).input) == 5


def test_openvino_model_server(artifact: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "models"
    for name in ("cells", "others"):
        assert write(artifact, "ovms", out, name) == out / name
    assert sorted(path.name for path in (out / "others").rglob("*") if path.is_file()) == [
        "metadata.json", "model.bin", "model.xml",
    ]  # fmt: skip
    listed = json.loads((out / "config.json").read_text(encoding="utf-8"))["model_config_list"]
    assert [one["config"] for one in listed] == [
        {"name": "cells", "base_path": "/models/cells"},
        {"name": "others", "base_path": "/models/others"},
    ]
    with pytest.raises(ArtifactError, match="is there already"):
        write(artifact, "ovms", out, "cells")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_what_servers_do_not_take(artifact: Artifact, tmp_path: Path) -> None:
    other = Artifact(artifact.path, artifact.metadata.model_copy(update={"format": "litert"}))
    with pytest.raises(ArtifactError, match="model servers take onnx and openvino"):
        write(other, "triton", tmp_path / "models", "a")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.safetensors", "--layout", "triton"], "takes an artifact"),
        (["none.safetensors", "--layout", "tritton"], "did you mean 'triton'?"),
        (["none.safetensors"], "say what to write: --format"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *arguments]) == 2
    assert said in capsys.readouterr().err
