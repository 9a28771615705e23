"""The writer for boards: ONNX graphs of plain operations, and the numpy code that runs between and behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.export import onnx as onnx_writer
from flexdetr.export.board_form import Decode, Encode, probes_of, write_pair
from flexdetr.export.board_ops import check_ops
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import HEAD, DeployForm
from flexdetr.export.targets import target_of
from flexdetr.runtime import host
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.board import DECODE, ENCODE, outputs_of


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``encode.onnx``, ``decode.onnx`` and ``host.py``; of a dense head ``encode.onnx``, ``host.py``, ``nms.py``.

    See ``formats.Writer``; the form's options name the target.

    Raises:
        ExportError: if the model cannot be expressed, or needs operations that the target does not take.
    """
    del float32  # everything
    del precision  # ``check_board`` has asked
    name = form.options.target or "generic"
    files = write_pair(form, folder, (ENCODE, DECODE), _save, plain_norms=target_of(name).plain_norms)
    graphs = [file for file in files if file in (ENCODE, DECODE)]
    wrong = [finding for file in graphs for finding in check_ops(folder / file, name)]
    if wrong:
        rows = "; ".join(dict.fromkeys(f"{one.op} in {one.layer}: {one.why}" for one in wrong))
        raise ExportError(f"this model has operations that the target {name} does not take: {rows}")
    return files


def _save(part: Encode | Decode, inputs: tuple[Tensor, ...], path: Path) -> None:
    proto = onnx_writer.to_proto(part, inputs, part.inputs, part.outputs, dynamic_size=False)
    used = {name for node in proto.graph.node for name in node.input}
    kept = [one for one in proto.graph.initializer if one.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def layers(path: Path) -> dict[str, str]:
    """Where the output of each layer can be read: module path -> name of a graph and of a value in it."""
    # What the model computes for the chosen tokens only, the first graph computes for all: not to be compared.
    per_query = tuple(f"{HEAD}.{prefix}" for prefix in probes_of(path).per_query)
    return {
        layer: f"{file}:{value}"
        for file in _outputs(path)
        for layer, value in onnx_writer.layers(path.with_name(file)).items()
        if file == DECODE or not layer.startswith(per_query)
    }


def _outputs(path: Path) -> dict[str, tuple[str, ...]]:
    """The graphs beside a file, and what they answer."""
    return dict(zip((ENCODE, DECODE), outputs_of(open_artifact(path, verify=False)), strict=False))


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run the written graphs and read values inside them.

    See ``formats.Writer``.
    """
    planes = np.ascontiguousarray(feeds["images"].transpose(0, 3, 1, 2), np.float32)
    outputs = _outputs(path)
    asked = {
        file: [name.removeprefix(f"{file}:") for name in names if name.startswith(file)] for file in outputs
    }
    first = [*outputs[ENCODE], *asked[ENCODE]]
    read = onnx_writer.read_values(path.with_name(ENCODE), list(dict.fromkeys(first)), {"image": planes})
    values = dict(zip((f"{ENCODE}:{name}" for name in dict.fromkeys(first)), read, strict=True))
    wanted = list(dict.fromkeys(asked.get(DECODE, [])))
    if wanted:
        memory, tokens, scores, boxes = (values[f"{ENCODE}:{name}"] for name in outputs[ENCODE])
        shape = (
            onnx.load(str(path.with_name(DECODE)), load_external_data=False)
            .graph.input[0]
            .type.tensor_type.shape
        )
        content, reference = host.choose(tokens, scores, boxes, shape.dim[1].dim_value)
        fed = {"content": content, "reference": reference, "memory": memory}
        read = onnx_writer.read_values(path.with_name(DECODE), wanted, fed)
        values |= dict(zip((f"{DECODE}:{name}" for name in wanted), read, strict=True))
    return [np.asarray(values[name], np.float32) for name in names]
