"""Where an ONNX graph has operations that a board's toolchain does not take."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import onnx

from flexdetr.export.errors import ExportError
from flexdetr.export.targets import Target, target_of

MAX_RANK = 4
_LAYER, _SCOPES = "layer", "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Finding:
    """An operation that a target does not take.

    ``op`` is its kind, ``layer`` the path of the layer that it came from (the node's own name where the file
    does not tell), ``node`` its name in the file, ``why`` what is wrong with it.
    """

    op: str
    layer: str
    node: str
    why: str


def check_ops(path: str | Path, target: str) -> list[Finding]:
    """Operations of any ONNX file that a target does not take, in the order of the graph.

    Weights beside the file are not read; ``target`` is a name of ``TARGETS``, or "npu".

    Returns:
        Findings: operations off the list, values of more than four axes or of sides that are not fixed, and a wrong
        opset; empty if the graph fits.

    Raises:
        ExportError: if the target is unknown or the file is no ONNX file.
    """
    kind = target_of(target)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist") from error
    except Exception as error:  # protobuf's errors share no base that onnx names
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    if not proto.graph.node:
        raise ExportError(f"{path} cannot be read as ONNX: it has no operations")
    findings = _opset(proto, kind)
    shapes = _shapes(proto)
    for node in proto.graph.node:
        layer = _layer(node)
        custom = node.domain not in ("", "ai.onnx")
        if custom or node.op_type not in kind.ops:
            name = f"{node.domain}.{node.op_type}" if custom else node.op_type
            findings.append(Finding(name, layer, node.name, "not on the list"))
            continue
        findings += [
            Finding(node.op_type, layer, node.name, why)
            for why in dict.fromkeys(_shape_fault(shapes.get(value)) for value in node.output)
            if why
        ]
    return findings


def _opset(proto: onnx.ModelProto, kind: Target) -> list[Finding]:
    version = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    lowest, highest = kind.opsets
    if lowest <= version <= highest:
        return []
    return [Finding("opset", "", "", f"opset {version}; the toolchain reads {lowest} to {highest}")]


def _shapes(proto: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The sides of every value that onnx can tell; None is a free one."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # a graph with unknown operations has shapes for a part only
        inferred = proto
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
        )
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }


def _shape_fault(shape: tuple[int | None, ...] | None) -> str | None:
    if shape is None:
        return None
    if len(shape) > MAX_RANK:
        return f"a tensor of {len(shape)} axes"
    return "a side that is not fixed" if None in shape else None


def _layer(node: onnx.NodeProto) -> str:
    """The layer that a node came from, as our exports and torch's write it down."""
    entries = {entry.key: entry.value for entry in node.metadata_props}
    if _LAYER in entries:
        return entries[_LAYER]
    if _SCOPES in entries:
        scopes = [scope for scope in ast.literal_eval(entries[_SCOPES])[:-1] if scope]
        if scopes:
            return str(scopes[-1])
    # Older exporters wrote paths into names: /decoder/layers.0/norm1/Add
    return node.name.rpartition("/")[0].strip("/").replace("/", ".") or node.name
