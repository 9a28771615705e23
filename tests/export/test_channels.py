"""Artifacts of detectors whose pictures are no RGB: proven, tried and fed as any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import flexdetr
from flexdetr.api import Detector
from flexdetr.data.images import ImageError
from flexdetr.export.reference import Reference
from flexdetr.runtime.artifact import METADATA
from flexdetr.runtime.feeds import FeedError
from flexdetr.runtime.sources import Item

# All tokens are queries: random scores nearly tie, so that rounding would choose others.
SETTLED = {
    "encoder": {"strides": (16, 32), "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 1, "ffn": 48, "heads": 4, "queries": 30, "denoising": 0},
}


@pytest.mark.parametrize(
    ("channels", "order", "form"), [(1, "grey", "onnx"), (4, "as stored", "openvino")], ids=["grey", "four"]
)
def test_an_artifact_finds_what_the_detector_finds_and_names_its_channels(
    make: Callable[..., Detector], tmp_path: Path, channels: int, order: str, form: str
) -> None:
    data = {"channels": channels, "value_range": (0, 4080)}
    detector = make(data=data, **SETTLED)
    takes = detector.export(form, tmp_path / "artifact").metadata.input
    assert (takes.channels, takes.colour_order, takes.value_range) == (channels, order, (0, 4080))
    written = json.loads((tmp_path / "artifact" / METADATA).read_text())["input"]
    assert len(written["normalisation"]["mean"]) == channels
    deployed = flexdetr.load(tmp_path / "artifact", precision="fp32")
    picture = np.random.default_rng(0).integers(0, 4080, (50, 70, channels)).astype(np.uint16)
    np.save(tmp_path / "a.npy", picture)
    eight = np.rint(picture.astype(np.float32) / 16).astype(np.uint8)
    ours = Reference(detector.model, detector.classes, detector.config.image_size).predict(eight)
    theirs = deployed.predict(tmp_path / "a.npy", 0.0)
    assert len(theirs) == len(ours)
    assert np.abs(np.sort(theirs.scores) - np.sort(ours.scores)).max() < 1e-3
    ((answered, _),) = deployed.predict_many([Item("a", tmp_path / "a.npy")])
    assert answered.image.shape == (50, 70, channels)
    with pytest.raises(FeedError, match=rf"takes .*, {channels}\); got"):
        deployed.runtime().infer(np.zeros((1, 64, 96, 3), np.uint8), None)
    if channels == 4:
        with pytest.raises(ImageError, match="with 4 channels"):
            deployed.predict(np.zeros((8, 8, 3), np.uint8))
