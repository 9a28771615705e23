"""The OpenVINO writer, and the view into a written file that the search for a wrong layer needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.half import store_in_half
from flexdetr.export.prepare import DeployForm, example
from flexdetr.export.program import quiet
from flexdetr.export.suppression import openvino_extension
from flexdetr.runtime.openvino import shared_core

MODEL = "model.xml"
WEIGHTS = "model.bin"
_SCOPE = re.compile(r"^__module\.(?P<path>[^/]+)/")
# Smaller constants are numbers of formulas, and not worth the conversion.
_WORTH_HALVING = 64


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``model.xml`` and ``model.bin``, converted directly from the PyTorch module.

    See ``formats.Writer``; fp16 stores weights in half precision, and what is computed in is the runtime's choice.
    """
    if precision == "fp16":
        form, _ = store_in_half(form, float32)
    options = form.options
    free = options.dynamic_size or options.resize_inside
    height, width = (-1, -1) if free else options.size
    shapes = [openvino.PartialShape([-1, height, width, options.channels])]
    if not options.raw:
        shapes.append(openvino.PartialShape([-1, 2]))
    try:
        with quiet(), torch.no_grad():
            # Tracing again to compare is a fifth of an export; the proof compares the written file with the model.
            traced = TorchScriptPythonDecoder(
                form, example_input=example(options), trace_kwargs={"check_trace": False}
            )
            graph = openvino.convert_model(traced, input=shapes, extension=openvino_extension())
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"this model cannot be written for OpenVINO: {error}") from error
    for output, name in zip(graph.outputs, form.output_names, strict=True):
        output.get_tensor().set_names({name})
    if precision == "fp16":
        _halve(graph)
    _weights_first(graph, form)
    _save(graph, form, folder / MODEL)
    return [MODEL, WEIGHTS]


def _save(graph: openvino.Model, form: DeployForm, path: Path) -> None:
    """Write a graph whose sensitive operations are computed in float32 whatever precision the runtime is asked for.

    OpenVINO 2026.4 does so for an operation with this attribute, which its own conversions give to what must not
    be narrowed. It is written into the file, because Python's view of the attributes has no such type: and it goes
    where the file goes, so that programs in other languages compute the same.
    """
    openvino.save_model(graph, path, compress_to_fp16=False)
    document = ElementTree.parse(path)  # noqa: S314 - written a line above
    for layer in document.iterfind("layers/layer"):
        scope = owner(layer.get("name", ""))
        if layer.get("type") != "Const" and scope and form.is_sensitive(scope):
            information = layer.find("rt_info")
            if information is None:
                information = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(information, "attribute", name="precise", version="0")
    document.write(path, encoding="utf-8", xml_declaration=True)


def _weights_first(graph: openvino.Model, form: DeployForm) -> None:
    """Let sensitive linear layers multiply their weights by the tokens, and not the tokens by their weights.

    The CPU plugin makes a layer of its own of a product whose second factor is constant, and that one forgets that it
    was to be precise; transposed, the same product stays as it is.
    """
    from openvino import opset13

    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "MatMul" or not owner(name) or not form.is_sensitive(owner(name)):
            continue
        if not _is_constant(node.input_value(1)):
            continue
        transposed = node.get_attributes()
        rank = node.get_output_partial_shape(0).rank.get_length()
        product = opset13.matmul(
            node.input_value(1),
            node.input_value(0),
            not transposed["transpose_b"],
            not transposed["transpose_a"],
        )
        order = [*range(rank - 2), rank - 1, rank - 2]
        turned = opset13.transpose(product, np.array(order, np.int64))
        node.set_friendly_name(name + "/replaced")
        product.set_friendly_name(name)
        turned.set_friendly_name(name + "/transposed")
        node.output(0).replace(turned.output(0))


def _is_constant(output: openvino.Output) -> bool:
    """Whether a value is a constant, stored as it is or in half precision."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _halve(graph: openvino.Model) -> None:
    """Store every constant in half precision that loses nothing by it: the weights were rounded before."""
    from openvino import opset13

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        values = np.array(node.data)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _WORTH_HALVING or not np.array_equal(half.astype(np.float32), values):
            continue
        stored = opset13.constant(half)
        stored.set_friendly_name(node.get_friendly_name() + "/half")
        node.output(0).replace(opset13.convert(stored, "f32").output(0))


def read_whole(path: Path) -> openvino.Model:
    """A written graph with its constants in memory, so that the file may be written over or deleted."""
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})
    return core.read_model(path)


def owner(name: str) -> str:
    """The path of the module that an operation of this name came from; "" for one that belongs to none."""
    scope = _SCOPE.match(name)
    return scope["path"] if scope else ""


def owners(graph: openvino.Model) -> dict[str, str]:
    """Name of an operation -> path of the module that it came from."""
    names = [node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() != "Constant"]
    return {name: owner(name) for name in names if owner(name)}


def quantise(path: Path, form: DeployForm, calibration: CalibrationPictures, kept: Collection[str]) -> None:
    """Bring a written float32 file to int8, in its place.

    See ``formats.Quantiser``.
    """
    from flexdetr.export.quantize import quantise as quantise_graph

    graph = read_whole(path)
    quantised = quantise_graph(graph, form, owners(graph), calibration, kept)
    draft = path.with_name("int8.xml")
    _save(quantised, form, draft)
    draft.replace(path)
    draft.with_suffix(".bin").replace(path.with_suffix(".bin"))


def layers(path: Path) -> dict[str, str]:
    """Where the output of each layer can be read: module path -> name of an operation in the graph."""
    found: dict[str, str] = {}
    for node in shared_core().read_model(path).get_ordered_ops():
        scope = owner(node.get_friendly_name())
        if scope and node.get_type_name() not in ("Constant", "ShapeOf") and node.get_output_size() == 1:
            found[scope] = node.get_friendly_name()
    return found


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run a written graph and read values inside it.

    See ``formats.Writer``; a name may be an output's, too.
    """
    core = shared_core()
    graph = core.read_model(path)
    nodes = {node.get_friendly_name(): node for node in graph.get_ordered_ops()}
    ports = []
    for name in names:
        result = next((output for output in graph.outputs if name in output.get_names()), None)
        ports.append(result.get_node().input_value(0) if result is not None else nodes[name].output(0))
    for output in list(graph.outputs):
        graph.remove_result(output.get_node())
    graph.add_outputs(ports)
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled(dict(feeds))
    return [np.asarray(answers[i], np.float32) for i in range(len(names))]
