"""Graphs broken on purpose are refused, and the message names the culprit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import helper, numpy_helper
from openvino import opset13 as ops

from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.export import onnx as onnx_writer
from flexdetr.export.make import DriftError, ExportSource, export
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.proof import Proof, prove
from flexdetr.export.reference import Reference, pictures_of
from flexdetr.runtime.artifact import METADATA, ArtifactMetadata, describe_files, write_metadata

FolderOf = Callable[[str], Path]
NORM = "detector.head.layers.0.norm1"


def proof_of(folder: Path, detector: Detector, classes: Classes | None = None) -> Proof:
    """Prove an artifact whose files were changed, as if it had been written so."""
    metadata = ArtifactMetadata.model_validate_json((folder / METADATA).read_text())
    update = {"files": describe_files(folder, list(metadata.files))}
    if classes is not None:
        update["classes"] = classes.to_json()  # type: ignore[assignment]
    write_metadata(folder, metadata.model_copy(update=update))
    inside = metadata.input.resize == "inside"
    form = prepare(detector.model, Options((64, 96), resize_inside=inside))
    pictures = pictures_of(None, detector.classes, detector.config, count=3)
    return prove(folder, form, Reference(detector.model, detector.classes, (64, 96)), pictures)


def refused(proof: Proof) -> str:
    assert not proof.parity.passed
    assert proof.parity.culprit is not None
    return proof.parity.culprit


def rewire(proto: onnx.ModelProto, old: str, new: str, nodes: list[onnx.NodeProto], at: int) -> None:
    """Put nodes behind a value: who read ``old`` reads ``new``."""
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
    for node in reversed(nodes):
        proto.graph.node.insert(at, node)


def overflow_onnx(folder: Path) -> None:
    """A norm in half precision, scaled to overflow; spelt out, because CPUs without half compute it in float32."""
    path = folder / "model.onnx"
    proto = onnx.load(str(path))
    place, norm = next(
        (i, node)
        for i, node in enumerate(proto.graph.node)
        if node.op_type == "LayerNormalization" and any(entry.value == NORM for entry in node.metadata_props)
    )
    value = norm.output[0]
    for name, number in (("scale", 60000), ("largest", 65504), ("over", np.inf)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    nodes = [
        helper.make_node("Mul", [value, "scale"], ["large"]),
        helper.make_node("Abs", ["large"], ["size"]),
        helper.make_node("Greater", ["size", "largest"], ["overflows"]),
        helper.make_node("Where", ["overflows", "over", "large"], ["half"]),
        helper.make_node("Div", ["half", "scale"], ["broken"]),
    ]
    for node in nodes:
        node.metadata_props.add(key="layer", value=NORM)
    rewire(proto, value, "broken", nodes, place + 1)
    onnx.save(proto, str(path))


def swap_onnx(folder: Path) -> None:
    path = folder / "model.onnx"
    proto = onnx.load(str(path))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 0]), "swap"))
    node = helper.make_node("Gather", ["sizes", "swap"], ["swapped"], axis=1)
    rewire(proto, "sizes", "swapped", [node], 0)
    onnx.save(proto, str(path))


def shift_onnx(folder: Path) -> None:
    path = folder / "model.onnx"
    proto = onnx.load(str(path))
    last = next(node for node in proto.graph.node if "labels" in node.output)
    last.output[0] = "right"
    for name, number in (("one", 1), ("three", 3)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number), name))
    proto.graph.node.append(helper.make_node("Add", ["right", "one"], ["next"]))
    proto.graph.node.append(helper.make_node("Mod", ["next", "three"], ["labels"]))
    onnx.save(proto, str(path))


def change_openvino(folder: Path, change: Callable[[openvino.Model], None]) -> None:
    graph = openvino.Core().read_model(folder / "model.xml").clone()
    change(graph)
    graph.validate_nodes_and_infer_types()
    openvino.save_model(graph, folder / "new.xml", compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        (folder / f"new{suffix}").replace(folder / f"model{suffix}")


def overflow_openvino(folder: Path) -> None:
    """As ``overflow_onnx``."""

    def change(graph: openvino.Model) -> None:
        last = [
            node
            for node in graph.get_ordered_ops()
            if node.get_friendly_name().startswith(f"__module.{NORM}/")
        ][-1]
        readers = list(last.output(0).get_target_inputs())
        large = ops.multiply(last.output(0), np.float32(60000))
        half = ops.select(ops.greater(ops.abs(large), np.float32(65504)), np.float32(np.inf), large)
        broken = ops.divide(half, np.float32(60000))
        broken.set_friendly_name(f"__module.{NORM}/aten::broken/Divide")
        for reader in readers:
            reader.replace_source_output(broken.output(0))

    change_openvino(folder, change)


def swap_openvino(folder: Path) -> None:
    def change(graph: openvino.Model) -> None:
        port = graph.input("sizes")
        readers = list(port.get_target_inputs())
        swapped = ops.gather(port, np.array([1, 0]), np.int64(1))
        for reader in readers:
            reader.replace_source_output(swapped.output(0))

    change_openvino(folder, change)


def test_a_norm_that_overflows_in_half_precision_onnx(folder_of: FolderOf, detector: Detector) -> None:
    folder = folder_of("onnx")
    overflow_onnx(folder)
    proof = proof_of(folder, detector)
    assert refused(proof).startswith("head.layers.0.norm1 (LayerNorm): its output is not finite")


def test_a_norm_that_overflows_in_half_precision_openvino(folder_of: FolderOf, detector: Detector) -> None:
    folder = folder_of("openvino")
    overflow_openvino(folder)
    culprit = refused(proof_of(folder, detector))
    assert culprit.startswith("head.layers.0.norm1 (LayerNorm): its output is not finite")


@pytest.mark.parametrize(("kind", "swap"), [("onnx", swap_onnx), ("openvino", swap_openvino)])
def test_width_and_height_swapped(
    folder_of: FolderOf, detector: Detector, kind: str, swap: Callable[[Path], None]
) -> None:
    folder = folder_of(kind)
    swap(folder)
    assert "width and height are swapped" in refused(proof_of(folder, detector))


def test_labels_shifted_by_one(folder_of: FolderOf, detector: Detector) -> None:
    folder = folder_of("onnx")
    shift_onnx(folder)
    culprit = refused(proof_of(folder, detector))
    assert "labels are shifted by 1" in culprit
    assert "class list" in culprit


def test_a_class_list_shifted_by_one(folder_of: FolderOf, detector: Detector) -> None:
    names, ids = detector.classes.names, detector.classes.ids
    shifted = Classes(names[1:] + names[:1], ids[1:] + ids[:1])
    proof = proof_of(folder_of("onnx"), detector, shifted)
    assert refused(proof) == "the class list: it is shifted by 1 against the model's"


def test_a_class_renamed(folder_of: FolderOf, detector: Detector) -> None:
    renamed = Classes(("cat", "fox", "owl"), detector.classes.ids)
    culprit = refused(proof_of(folder_of("onnx"), detector, renamed))
    assert "position 1 holds ('fox', 2), the model's ('dog', 2)" in culprit


def test_what_is_refused_is_not_kept(
    subject: ExportSource, folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (folder_of("onnx") / "model.onnx").read_bytes()

    def write(form: object, folder: Path, precision: str, float32: object) -> list[str]:
        (folder / "model.onnx").write_bytes(good)
        swap_onnx(folder)
        return ["model.onnx"]

    monkeypatch.setattr(onnx_writer, "write", write)
    former = folder_of("torch")
    before = (former / "metadata.json").read_bytes()
    with pytest.raises(DriftError, match="width and height are swapped") as caught:
        export(subject, "onnx", former)
    assert not caught.value.parity.passed
    assert (former / "metadata.json").read_bytes() == before
    assert {path.name for path in former.parent.iterdir()} == {"onnx", "torch"}
