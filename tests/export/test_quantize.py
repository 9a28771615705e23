"""What int8 leaves in float, and how a detector is divided into parts to compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexdetr.api import Detector
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.quantize import int8_layers, parts_of, stays_float
from flexdetr.export.sensitivity import distance
from flexdetr.runtime.detections import Detections


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("preprocess", True),
        ("detector.head", True),
        ("detector.head.encoder_score", True),
        ("detector.head.encoder_box.layers.1", True),
        ("detector.head.boxes.2.layers.0", True),
        ("detector.head.scores.0", True),
        ("detector.head.query_position.layers.1", True),
        ("detector.head.layers.1.cross_attention", True),
        ("detector.head.layers.1.cross_attention.offsets", True),
        ("detector.head.layers.1.cross_attention.weights", True),
        ("detector.head.layers.1.norm2", True),
        ("detector.head.memory_norm", True),
        ("detector.encoder.intra.layers.0.norm1", True),
        ("detector.encoder.intra.layers.0.attention", True),
        ("detector.head.layers.1.cross_attention.value", False),
        ("detector.head.layers.1.cross_attention.output", False),
        ("detector.head.layers.1.attention.query_key", False),
        ("detector.head.layers.1.feed_forward.linear1", False),
        ("detector.head.input_proj.0", False),
        ("detector.encoder", False),
        ("detector.backbone.stages.0.blocks.0", False),
    ],
)
def test_what_stays_in_float_by_rule(detector: Detector, path: str, expected: bool) -> None:
    assert stays_float(prepare(detector.model, Options((64, 96))), path) is expected


def test_parts_are_kept_whole_and_by_whole_names(detector: Detector) -> None:
    form = prepare(detector.model, Options((64, 96)))
    assert stays_float(form, "detector.backbone.stages.1.blocks.0", ["backbone.stages.1"])
    assert stays_float(form, "detector.backbone.stages.1", ["backbone.stages.1"])
    assert not stays_float(form, "detector.backbone.stages.10.blocks.0", ["backbone.stages.1"])
    whole, less = int8_layers(form), int8_layers(form, ["backbone"])
    assert set(less) == {path for path in whole if not path.startswith("backbone.")}
    assert not any("box" in path or "score" in path or "offsets" in path for path in whole)


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@settings(deadline=None)
@given(st.sets(names, max_size=30), st.integers(1, 30))
def test_parts_hold_every_layer_once(layers: set[str], count: int) -> None:
    # A layer holds no other layer.
    leaves = [path for path in sorted(layers) if not any(other.startswith(path + ".") for other in layers)]
    parts = parts_of(leaves, count)
    assert sorted(layer for members in parts.values() for layer in members) == leaves
    assert all(
        path == "" or layer == path or layer.startswith(path + ".")
        for path, members in parts.items()
        for layer in members
    )
    assert len(parts) >= min(count, len(leaves))


def found(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    return Detections(boxes, scores, classes, [str(one) for one in classes], classes)


def test_distance_is_what_each_expected_detection_is_off() -> None:
    expected = found([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], [0.9, 0.8, 0.1], [0, 1, 0])
    assert distance([expected], [expected], [0.3]) == 0
    moved = found([[20, 20, 30, 30], [0, 0, 10, 5]], [0.7, 0.9], [1, 0])
    # Half the overlap is gone from one, a tenth of the score from the other; the third is below the floor.
    assert distance([expected], [moved], [0.3]) == pytest.approx((0.5 + 0.1) / 2, abs=1e-6)
    relabelled = found([[0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8], [2, 1])
    assert distance([expected], [relabelled], [0.3]) == pytest.approx(0.25)
    assert distance([expected], [Detections.empty()], [0.3]) == 2
    assert distance([Detections.empty()], [expected], [0.3]) == 0
    assert np.isfinite(distance([], [], []))
