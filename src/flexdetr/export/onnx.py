"""The ONNX writer, and the view into a written file that the search for a wrong layer needs."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexdetr import __version__
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.half import in_half
from flexdetr.export.prepare import DeployForm
from flexdetr.export.program import draw, quiet
from flexdetr.export.suppression import onnx_translations

OPSET = 18
MODEL = "model.onnx"
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYER = "layer"


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``model.onnx``.

    See ``formats.Writer``; fp16 computes in half precision.
    """
    names = ("images",) if form.options.raw else ("images", "sizes")
    program = draw(in_half(form, float32) if precision == "fp16" else form)
    proto = to_proto(program, (), names, form.output_names, dynamic_size=form.options.dynamic_size)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(folder / MODEL))
    return [MODEL]


def to_proto(
    program: torch.export.ExportedProgram | nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    dynamic_size: bool,
) -> onnx.ModelProto:
    """The ONNX graph of a program, or of a module that is run on ``inputs``; its nodes know their layers.

    Raises:
        ExportError: if it cannot be expressed.
    """
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=onnx_translations(),
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"this model cannot be written as ONNX: {error}") from error
    if exported is None:
        raise ExportError("this model cannot be written as ONNX: the exporter returned nothing")
    proto = exported.model_proto
    _tidy(proto, dynamic_size=dynamic_size)
    return proto


def _tidy(proto: onnx.ModelProto, *, dynamic_size: bool) -> None:
    """Speaking names for free sides, each node's layer, and nothing of the machine that it was made on."""
    proto.producer_name, proto.producer_version = "flexdetr", __version__
    names = ["batch", *(["height", "width"] if dynamic_size else [])]
    free = [dim for dim in proto.graph.input[0].type.tensor_type.shape.dim if dim.dim_param]
    renamed = {dim.dim_param: name for dim, name in zip(free, names, strict=False)}
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # setting it, even to nothing, deletes a number
                dim.dim_param = renamed.get(dim.dim_param, dim.dim_param)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        path = _path(node)
        node.doc_string = ""
        del node.metadata_props[:]
        if path:
            node.metadata_props.add(key=_LAYER, value=path)
    for part in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        part.doc_string = ""
        del part.metadata_props[:]


def _path(node: onnx.NodeProto) -> str:
    """The path of the module that a node came from; the exporter lists all scopes around it and its own name."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    return next((scope for scope in reversed(ast.literal_eval(scopes)[:-1]) if scope), "")


def quantise(path: Path, form: DeployForm, calibration: CalibrationPictures, kept: Collection[str]) -> None:
    """Bring a written float32 file to int8, as QuantizeLinear and DequantizeLinear, in its place.

    See ``formats.Quantiser``.
    """
    from flexdetr.export.quantize import quantise as quantise_graph

    proto = onnx.load(str(path))
    owners = {node.name: _layer(node) for node in proto.graph.node if _layer(node)}
    quantised = quantise_graph(proto, form, owners, calibration, kept)
    del quantised.metadata_props[:]
    onnx.checker.check_model(quantised)
    onnx.save(quantised, str(path))


def _layer(node: onnx.NodeProto) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == _LAYER), "")


def layers(path: Path) -> dict[str, str]:
    """Where the output of each layer can be read: module path -> name of a value in the graph."""
    found: dict[str, str] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        layer = _layer(node)
        if layer:
            found[layer.replace(".inner", "")] = node.output[0]
    return found


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run a written graph and read values inside it.

    See ``formats.Writer``.
    """
    import onnxruntime

    proto = onnx.load(str(path))
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value, np.float32) for value in session.run(list(names), dict(feeds))]
