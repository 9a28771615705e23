"""The onnxruntime runtime on a hand-made graph, so that neither torch nor an export is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from described import described
from flexdetr.runtime.artifact import (
    Artifact,
    ArtifactError,
)
from flexdetr.runtime.feeds import FeedError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from flexdetr.runtime.onnxruntime import OnnxRuntime  # noqa: E402 - after the skips
from flexdetr.runtime.openvino import OpenVINORuntime  # noqa: E402

SIZE = (32, 64)
TEXT = """
<ir_version: 8, opset_import: ["": 18]>
tiny (uint8[N,32,64,3] images, int64[N,2] sizes) => (float[N,1,4] boxes, float[N,1] scores, int64[N,1] labels)
<float full = {255.0}, int64[3] places = {1, 2, 3}, int64[1] one = {1}, int64[2] turned = {1, 0}>
{
    levels = Cast <to = 1> (images)
    part = Div (levels, full)
    mean = ReduceMean <keepdims = 0> (part, places)
    scores = Unsqueeze (mean, one)
    edges = Gather <axis = 1> (sizes, turned)
    high = Cast <to = 1> (edges)
    low = Sub (high, high)
    flat = Concat <axis = 1> (low, high)
    boxes = Unsqueeze (flat, one)
    nothing = Sub (scores, scores)
    labels = Cast <to = 7> (nothing)
}
"""


def write(folder: Path, names: tuple[str, ...] = ("boxes", "scores", "labels")) -> Artifact:
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(TEXT), str(folder / "model.onnx"))
    return described(folder, ["model.onnx"], format="onnx", size=SIZE, resize="outside", names=names)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write(tmp_path_factory.mktemp("artifact") / "tiny")


def drawn(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (batch, *SIZE, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_gives_what_openvino_gives(artifact: Artifact, batch: int, hint: str) -> None:
    images, sizes = drawn(batch), np.arange(1, 2 * batch + 1).reshape(batch, 2)
    answers = OnnxRuntime(artifact, hint=hint).infer(images, sizes)  # type: ignore[arg-type]
    others = OpenVINORuntime(artifact, cache=False, precision="fp32").infer(images, sizes)
    for one, other in zip(answers, others, strict=True):
        assert one.dtype == other.dtype
        assert one == pytest.approx(other, abs=1e-5)
    assert answers[0][:, 0, 2:].tolist() == sizes[:, ::-1].tolist()


def test_may_be_called_from_several_threads(artifact: Artifact) -> None:
    runtime = OnnxRuntime(artifact, threads=1)
    pictures = [drawn(1) // level for level in range(1, 30)]
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda one: float(runtime.infer(one)[1][0, 0]), pictures))
    assert scores == pytest.approx([one.mean() / 255 for one in pictures], abs=1e-5)


def test_wrong_feeds_are_answered(artifact: Artifact) -> None:
    with pytest.raises(FeedError, match="resize them first"):
        OnnxRuntime(artifact).infer(np.zeros((1, 64, 64, 3), np.uint8))


def test_what_cannot_be_used_is_named(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no device 'cuda'"):
        OnnxRuntime(artifact, device="cuda")
    with pytest.raises(ArtifactError, match="has no confidences"):
        OnnxRuntime(write(tmp_path / "names", names=("boxes", "confidences", "labels")))
    broken = write(tmp_path / "broken")
    broken.model_file.write_bytes(b"\x08\x08no model")
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be used by onnxruntime"):
        OnnxRuntime(broken)
