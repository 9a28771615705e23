"""The OpenVINO runtime on a hand-made graph, so that neither torch nor an export is needed."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from described import described
from flexdetr.runtime.artifact import (
    Artifact,
    ArtifactError,
)
from flexdetr.runtime.cpu import SWITCH, bf16_supported, cpu_features
from flexdetr.runtime.feeds import FeedError
from flexdetr.runtime.openvino import VERSION, OpenVINORuntime
from flexdetr.runtime.parity import Drift, Parity, Proven, Tolerance

SIZE = (32, 64)
needs_bf16 = pytest.mark.skipif(not bf16_supported(), reason="this CPU does not compute in bf16")


def write(folder: Path, names: tuple[str, ...] = ("boxes", "scores", "labels")) -> Artifact:
    """One object a picture: the whole original picture, its mean brightness the score; resized inside."""
    images = ops.parameter(openvino.PartialShape([-1, -1, -1, 3]), np.uint8, name="images")
    sizes = ops.parameter(openvino.PartialShape([-1, 2]), np.int64, name="sizes")
    planes = ops.transpose(ops.convert(images, "f32"), [0, 3, 1, 2])
    seen = ops.interpolate(
        planes,
        np.array(SIZE, np.int64),
        "bilinear_pillow",
        "sizes",
        [0, 0],
        [0, 0],
        coordinate_transformation_mode="half_pixel",
        nearest_mode="floor",
        axes=np.array([2, 3], np.int64),
    )
    score = ops.reduce_mean(ops.divide(seen, np.float32(255)), np.array([2, 3]), keep_dims=False)
    scores = ops.reduce_mean(score, np.array([1]), keep_dims=True)
    edges = ops.convert(ops.gather(sizes, np.array([1, 0]), np.int64(1)), "f32")
    boxes = ops.unsqueeze(ops.concat([ops.multiply(edges, np.float32(0)), edges], 1), np.int64(1))
    labels = ops.convert(ops.multiply(scores, np.float32(0)), "i64")
    graph = openvino.Model([boxes, scores, labels], [images, sizes], "tiny")
    for port, name in zip(graph.outputs, ("boxes", "scores", "labels"), strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.inputs, ("images", "sizes"), strict=True):
        port.get_tensor().set_names({name})
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=False)
    return described(folder, ["model.xml", "model.bin"], size=SIZE, names=names)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write(tmp_path_factory.mktemp("artifact") / "tiny")


def bright(level: int, batch: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((batch, *size, 3), level, np.uint8)


def test_answers_in_the_order_of_the_metadata(artifact: Artifact) -> None:
    runtime = OpenVINORuntime(artifact, cache=False, precision="fp32")
    boxes, scores, labels = runtime.infer(bright(51), np.array([[100, 200]]))
    assert boxes.tolist() == [[[0, 0, 200, 100]]]
    assert scores[0, 0] == pytest.approx(0.2, abs=1e-5)
    assert labels.dtype == np.int64
    assert runtime.description == "OpenVINO on CPU in fp32"


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [SIZE, (50, 41)])
def test_any_batch_and_any_size(artifact: Artifact, batch: int, size: tuple[int, int]) -> None:
    runtime = OpenVINORuntime(artifact, cache=False, precision="fp32")
    boxes, scores, _ = runtime.infer(bright(102, batch, size))
    assert boxes[:, 0, 2:].tolist() == [[size[1], size[0]]] * batch
    assert scores == pytest.approx(np.full((batch, 1), 0.4), abs=1e-5)


def test_processes_that_share_a_machine_are_not_pinned_to_the_same_cores(artifact: Artifact) -> None:
    runtime = OpenVINORuntime(artifact, threads=1, precision="fp32", cache=False)
    compiled = runtime._variant((1, *SIZE)).compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert not compiled.get_property("ENABLE_CPU_PINNING")


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_may_be_called_from_several_threads(artifact: Artifact, hint: str) -> None:
    runtime = OpenVINORuntime(artifact, cache=False, precision="fp32", hint=hint)  # type: ignore[arg-type]
    assert runtime.parallel >= 1
    levels = list(range(0, 255, 5))
    with ThreadPoolExecutor(6) as pool:
        scores = list(pool.map(lambda level: float(runtime.infer(bright(level))[1][0, 0]), levels))
    assert scores == pytest.approx([level / 255 for level in levels], abs=1e-5)


def test_answers_outlive_the_next_run(artifact: Artifact) -> None:
    runtime = OpenVINORuntime(artifact, cache=False, precision="fp32")
    first = runtime.infer(bright(0))[1]
    runtime.infer(bright(255))
    assert first[0, 0] == 0


def test_wrong_feeds_are_answered(artifact: Artifact) -> None:
    runtime = OpenVINORuntime(artifact, cache=False)
    with pytest.raises(FeedError, match="uint8"):
        runtime.infer(bright(1).astype(np.float32))
    with pytest.raises(FeedError, match="batch axis"):
        runtime.infer(bright(1)[0])


def test_unknown_devices_and_precisions_are_answered(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match=r"no device 'gpu7'.*it has: .*cpu"):
        OpenVINORuntime(artifact, device="gpu7", cache=False)
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(ArtifactError, match="CPU does not compute in bf16; use precision='fp32' or 'auto'"):
        OpenVINORuntime(artifact, precision="bf16", cache=False)


def with_proof(artifact: Artifact, passed: bool, **options: Any) -> Artifact:
    """The artifact as if a proof in bf16 had been made here."""
    nothing = Drift(case="one by one", pictures=0, compared=0, floor=0.3)
    proof = {"tolerance": Tolerance(), "drifts": (nothing,), "reason": None if passed else "scores drift"}
    where = {"runtime": VERSION, "features": cpu_features()} | options
    parity = Parity(passed=True, tolerance=Tolerance(), runtime="", pictures="", drifts=(nothing,))
    proofs = {"bf16": Proven(passed=passed, **where, **proof)}
    metadata = artifact.metadata.model_copy(update={"precisions": proofs, "parity": parity})
    return Artifact(artifact.path, metadata)


@needs_bf16
@pytest.mark.parametrize(("passed", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_that_was_proven(
    artifact: Artifact, caplog: pytest.LogCaptureFixture, passed: bool, chosen: str
) -> None:
    runtime = OpenVINORuntime(with_proof(artifact, passed), cache=False)
    assert runtime.precision == chosen
    assert runtime.description == f"OpenVINO on CPU in {chosen}"
    runtime.infer(bright(100))
    compiled = runtime._variants[1, *SIZE].compiled
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert used == {"bf16": "bf16", "fp32": "f32"}[chosen]
    said = "computes in fp32, not in bf16: its proof in bf16 failed: scores drift"
    assert [said in line for line in caplog.messages] == ([] if passed else [True])


@needs_bf16
def test_auto_is_float32_where_nothing_was_proven(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    for unproven in (artifact, with_proof(artifact, True, runtime="OpenVINO 2020.1")):
        caplog.clear()
        assert OpenVINORuntime(unproven, cache=False).precision == "fp32"
        (line,) = caplog.messages
        assert "computes in fp32, not in bf16: it was never proven" in line


def test_auto_is_float32_without_bf16(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert OpenVINORuntime(with_proof(artifact, True), cache=False).precision == "fp32"


@needs_bf16
def test_what_was_not_proven_can_be_asked_for(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    failed = with_proof(artifact, False)
    never = Artifact(artifact.path, failed.metadata.model_copy(update={"precisions": {}}))
    for unproven, how in (
        (failed, "failed its proof (scores drift) in bf16"),
        (never, "was never proven in bf16"),
    ):
        caplog.clear()
        assert OpenVINORuntime(unproven, precision="bf16", cache=False).precision == "bf16"
        assert how in caplog.text
    caplog.clear()
    OpenVINORuntime(with_proof(artifact, True), precision="bf16", cache=False)
    assert not caplog.records


def test_a_file_that_openvino_cannot_read_is_named(tmp_path: Path) -> None:
    artifact = write(tmp_path / "broken")
    artifact.model_file.write_text("<net><layers></layers>")
    with pytest.raises(ArtifactError, match=r"model\.xml cannot be used by OpenVINO"):
        OpenVINORuntime(artifact, cache=False)


def test_metadata_that_names_other_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be used by OpenVINO"):
        OpenVINORuntime(write(tmp_path / "other", names=("boxes", "confidences", "labels")), cache=False)


def test_compiled_graphs_are_kept(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXDETR_CACHE", str(tmp_path))
    OpenVINORuntime(artifact).infer(bright(1))
    assert list((tmp_path / "openvino").glob("*.blob"))
    OpenVINORuntime(artifact, cache=tmp_path / "elsewhere").infer(bright(1))
    assert list((tmp_path / "elsewhere").glob("*.blob"))


def test_a_cache_that_cannot_be_written_is_done_without(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    runtime = OpenVINORuntime(artifact, cache=in_the_way / "cache")
    assert "are not kept" in caplog.text
    assert len(runtime.infer(bright(1))) == 3
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are looked at through Linux's C library")
def test_a_runtime_that_dies_in_another_thread_leaves_the_signal_stack(tmp_path: Path) -> None:
    held = [OpenVINORuntime(write(tmp_path), cache=False)]
    held[0].infer(np.zeros((1, *SIZE, 3), np.uint8), np.array([SIZE]))
    before = _signal_stack()

    def let_go() -> None:
        held.clear()
        gc.collect()

    thread = threading.Thread(target=let_go)
    thread.start()
    thread.join()
    address, size = _signal_stack()
    assert (address, size) == before
    if address:
        # Reading memory that was freed would end this process; the kernel answers with an error instead.
        reader, writer = os.pipe()
        try:
            assert ctypes.CDLL(None, use_errno=True).write(writer, ctypes.c_void_p(address), 64) == 64
        finally:
            os.close(reader)
            os.close(writer)


def _signal_stack() -> tuple[int | None, int]:
    """Address and size of this thread's alternative signal stack."""

    class Stack(ctypes.Structure):
        _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.address, stack.size
