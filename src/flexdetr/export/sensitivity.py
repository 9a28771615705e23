"""Which parts of a detector lose most by int8: each part alone in int8, everything else in float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.export import openvino as writer
from flexdetr.export.calibration import CalibrationPictures, Feeds
from flexdetr.export.prepare import DeployForm
from flexdetr.export.quantize import int8_layers, parts_of, quantise
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import floors, matching_costs
from flexdetr.runtime.openvino import shared_core
from flexdetr.runtime.parity import Tolerance

PARTS = 24
# Pictures that ranges are measured on, and that the parts are compared on: an order needs fewer than a result.
RANGES, COMPARED = 32, 8

Read = Callable[[Sequence[NDArray[Any]], Sequence[tuple[int, int]]], list[Detections]]


@dataclass(frozen=True)
class Sensitivity:
    """What int8 in one part does to the detections.

    Attributes:
        part: path in the detector.
        layers: convolutions and linear layers in it.
        distance: mean over the float detections of what their best partner is off: 1 - IoU, and the difference of
            scores, and 0.5 for another class.
    """

    part: str
    layers: int
    distance: float


def rank(
    form: DeployForm, calibration: CalibrationPictures, pictures: CalibrationPictures, read: Read
) -> list[Sensitivity]:
    """The parts of a detector, most sensitive first, as OpenVINO computes them.

    Args:
        form: the float32 deploy form.
        calibration: pictures to measure ranges on.
        pictures: pictures to compare detections on.
        read: a graph's outputs and the pictures' sizes -> detections.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer.write(form, Path(folder), "fp32", ())
        graph = writer.read_whole(Path(folder) / writer.MODEL)
    whole = quantise(graph, form, writer.owners(graph), calibration, for_ranking=True)
    feeds = list(pictures)
    expected = _detect(graph, feeds, read)
    lowest = floors(expected, Tolerance().floor)
    ranking = []
    for part, layers in parts_of(int8_layers(form), PARTS).items():
        alone = whole.clone()
        _keep_int8(alone, part)
        answers = _detect(alone, feeds, read)
        ranking.append(Sensitivity(part, len(layers), distance(expected, answers, lowest)))
    return sorted(ranking, key=lambda one: -one.distance)


def distance(expected: Sequence[Detections], answers: Sequence[Detections], lowest: Sequence[float]) -> float:
    """Mean cost of pairing each expected detection above its picture's floor; 2 for one without any partner."""
    from scipy.optimize import linear_sum_assignment

    costs: list[float] = []
    for one, other, floor in zip(expected, answers, lowest, strict=True):
        wanted = one[one.scores > floor]
        cost = matching_costs(wanted, other)
        rows, columns = linear_sum_assignment(cost)
        costs += [float(value) for value in cost[rows, columns]] + [2.0] * (len(wanted) - len(rows))
    return float(np.mean(costs)) if costs else 0.0


def _detect(graph: Any, feeds: Sequence[Feeds], read: Read) -> list[Detections]:  # noqa: ANN401 - openvino.Model
    compiled = shared_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: list[Detections] = []
    for feed in feeds:
        answers = compiled(feed)
        height, width = feed["sizes"][0] if "sizes" in feed else feed["images"].shape[1:3]
        found += read([np.array(answers[i]) for i in range(len(graph.outputs))], [(int(height), int(width))])
    return found


def _keep_int8(graph: Any, part: str) -> None:  # noqa: ANN401 - openvino.Model
    """Take out every quantiser but those in front of a part's operations."""
    inside = f"detector.{part}"
    for op in graph.get_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        for reader in list(op.output(0).get_target_inputs()):
            path = writer.owner(reader.get_node().get_friendly_name())
            if path != inside and not path.startswith(inside + "."):
                reader.replace_source_output(op.input_value(0))
