"""An artifact as model servers want it: a repository of Triton or of OpenVINO Model Server. No torch here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from flexdetr.runtime.artifact import METADATA, Artifact, ArtifactError
from flexdetr.runtime.formats import FORMATS

_TRITON_TYPES: Final = {
    "u8": "TYPE_UINT8", "i32": "TYPE_INT32", "i64": "TYPE_INT64", "f16": "TYPE_FP16", "f32": "TYPE_FP32",
}  # fmt: skip


class Tensor(NamedTuple):
    """An input or output of a graph.

    ``kind`` is as OpenVINO names it, like "u8"; ``shape`` is -1 for sides that vary.
    """

    name: str
    kind: str
    shape: tuple[int, ...]


def write(artifact: Artifact, layout: str, out: Path, name: str) -> Path:
    """Write a repository with one model.

    Triton: ``NAME/config.pbtxt`` and ``NAME/1/model.onnx`` (or ``model.xml`` and ``model.bin``). OpenVINO Model Server:
    ``NAME/1/...`` and ``config.json``. ``NAME/metadata.json`` is the artifact's, with classes and what is fed.

    The artifact is of format "onnx" or "openvino", ``layout`` "triton" or "ovms"; a model of this name must not
    be in ``out`` yet.

    Raises:
        ArtifactError: if the server does not run this format, or the model is there already.
    """
    if artifact.metadata.format not in ("onnx", "openvino"):
        raise ArtifactError(
            f"{artifact.path} is in format {artifact.metadata.format}; model servers take onnx and openvino: "
            "export the checkpoint in one of these"
        )
    folder = out / name
    if folder.exists():
        raise ArtifactError(f"{folder} is there already; give another --out or --name")
    draft = out / f".{name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "1").mkdir(parents=True)
    for file in artifact.metadata.files:
        if Path(file).suffix in FORMATS[artifact.metadata.format].suffixes:
            shutil.copyfile(artifact.path / file, draft / "1" / f"model{Path(file).suffix}")
    shutil.copyfile(artifact.path / METADATA, draft / METADATA)
    LAYOUTS[layout](artifact, draft, out, name)
    draft.replace(folder)
    return folder


def _triton(artifact: Artifact, draft: Path, _out: Path, name: str) -> None:
    backend = "openvino" if artifact.metadata.format == "openvino" else "onnxruntime"
    graph = next(file for file in (draft / "1").iterdir() if file.suffix in (".onnx", ".xml"))
    inputs, outputs = tensors(graph)
    (draft / "config.pbtxt").write_text(config_pbtxt(name, backend, inputs, outputs), encoding="utf-8")


def _ovms(_artifact: Artifact, _draft: Path, out: Path, name: str) -> None:
    """Add the model to ``config.json``, which lists the repository's; its paths are those inside the container."""
    path = out / "config.json"
    document: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"model_config_list": []}
    )
    document["model_config_list"].append({"config": {"name": name, "base_path": f"/models/{name}"}})
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


LAYOUTS: Final[Mapping[str, Callable[[Artifact, Path, Path, str], None]]] = {
    "triton": _triton,
    "ovms": _ovms,
}


def tensors(graph: Path) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and outputs of an ONNX or OpenVINO file."""
    from flexdetr.runtime.openvino import shared_core

    model = shared_core().read_model(graph)

    def of(port: Any) -> Tensor:  # noqa: ANN401 - of OpenVINO
        sides = port.get_partial_shape()
        shape = tuple(-1 if side.is_dynamic else side.get_length() for side in sides)
        return Tensor(port.get_any_name(), port.get_element_type().get_type_name(), shape)

    return [of(port) for port in model.inputs], [of(port) for port in model.outputs]


def config_pbtxt(name: str, backend: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """Triton's description of a model, as text of its protocol buffer ``ModelConfig``.

    The first side of all shapes is the batch, which is stated with the others (``max_batch_size: 0``): pictures of one
    request have one size, and Triton does not put requests together.
    """
    lines = [f'name: "{name}"', f'backend: "{backend}"', "max_batch_size: 0"]
    for kind, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            sides = ", ".join(map(str, port.shape))
            data_type = _TRITON_TYPES[port.kind]
            lines.append(
                f'{kind} {{\n  name: "{port.name}"\n  data_type: {data_type}\n  dims: [ {sides} ]\n}}'
            )
    return "\n".join(lines) + "\n"
