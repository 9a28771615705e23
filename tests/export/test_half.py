"""Half precision: within its tolerance, and with the layer at fault in float32 where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flexdetr.api import Detector
from flexdetr.export.errors import ExportError
from flexdetr.export.half import ALWAYS_FLOAT32, InFloat32, beyond_half, in_half, store_in_half
from flexdetr.export.prepare import Options, example, prepare

OPTIONS = Options((64, 96))


def overflowing(detector: Detector) -> Detector:
    """The same function, with a hidden layer whose output is beyond half precision's range."""
    feed_forward = detector.model.head.layers[0].feed_forward
    with torch.no_grad():
        feed_forward.linear1.weight.mul_(1e5)
        feed_forward.linear1.bias.mul_(1e5)
        feed_forward.linear2.weight.div_(1e5)
    return detector


def test_norms_and_what_is_named_stay_in_float32(detector: Detector) -> None:
    form = prepare(detector.model, OPTIONS)
    half = in_half(form, ["head.encoder_score", "Conv2d"])
    kept = {name: part.inner for name, part in half.named_modules() if isinstance(part, InFloat32)}
    assert {type(part).__name__ for part in kept.values()} == {"LayerNorm", "Conv2d", "Linear"}
    assert [name for name, part in kept.items() if type(part).__name__ == "Linear"] == [
        "detector.head.encoder_score"
    ]
    assert form.detector.head.memory_proj.weight.dtype == torch.float32, "the form itself is left as it is"
    boxes, scores, _ = half(*example(OPTIONS))
    assert boxes.dtype == scores.dtype == torch.float32


def test_weights_beyond_half_stay_as_they_are(make: Callable[..., Detector]) -> None:
    form = prepare(overflowing(make()).model, OPTIONS)
    linear = form.detector.head.layers[0].feed_forward.linear1
    with torch.no_grad():
        linear.weight[0, 0] = 1e6
    stored, beyond = store_in_half(form)
    assert beyond == ("head.layers.0.feed_forward.linear1",)
    assert torch.equal(stored.detector.head.layers[0].feed_forward.linear1.weight, linear.weight)
    other = stored.detector.head.memory_proj.weight
    assert torch.equal(other, form.detector.head.memory_proj.weight.half().float())


@pytest.mark.parametrize("kind", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_fp16_is_small_and_near(exported: Callable, detector: Detector, tmp_path: Path, kind: str) -> None:
    artifact = detector.export(kind, tmp_path / "half", precision="fp16")
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.parity.tolerance.score == 0.02
    weights = {"openvino": "model.bin", "onnx": "model.onnx"}[kind]
    full = exported(kind).metadata.files[weights].bytes
    assert artifact.metadata.files[weights].bytes < 0.75 * full
    assert artifact.metadata.made["float32"] == list(ALWAYS_FLOAT32)


def test_parts_beyond_the_range_stay_in_float32(make: Callable[..., Detector]) -> None:
    form = prepare(overflowing(make()).model, OPTIONS)
    feeds = [example(OPTIONS)]
    found = beyond_half(form, feeds)
    assert list(found) == ["head.layers.0.feed_forward"], "the smallest part whose own output fits"
    assert found["head.layers.0.feed_forward"] > 65504
    plain, kept = in_half(form), in_half(form, found)
    assert not torch.isfinite(plain(*feeds[0])[1]).all(), "what is kept in float32 is what overflows"
    expected, answered = form(*feeds[0])[1], kept(*feeds[0])[1]
    assert (expected - answered).abs().mean() < 0.01


def test_a_model_that_does_not_fit_at_all(make: Callable[..., Detector]) -> None:
    form = prepare(make().model, OPTIONS)
    with torch.no_grad():
        form.detector.head.memory_norm.weight.mul_(1e8)
    with pytest.raises(ExportError, match=r"does not fit in half precision.*--precision fp32"):
        beyond_half(form, [example(OPTIONS)])


@pytest.mark.slow
def test_only_precision_is_at_fault(make: Callable[..., Detector], tmp_path: Path) -> None:
    said: list[str] = []
    artifact = overflowing(make()).export("onnx", tmp_path / "half", precision="fp16", announce=said.append)
    assert artifact.parity is not None
    assert artifact.parity.passed
    (note,) = artifact.parity.notes
    assert note.startswith("kept in float32: head.layers.0.feed_forward, where values reach")
    assert note in said
    assert "head.layers.0.feed_forward" in artifact.metadata.made["float32"]
