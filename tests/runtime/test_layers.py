"""Layers' arithmetic beside what the model's size says, and floors by hand; no time is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from fakes.tiny import untrained
from flexdetr.api import Detector
from flexdetr.model.size import measure_both
from flexdetr.runtime import layers
from flexdetr.runtime.artifact import Artifact, open_artifact
from flexdetr.runtime.layers import Layer, Rates
from flexdetr.runtime.openvino import OpenVINORuntime


@pytest.fixture(scope="module")
def tiny(once: Callable[[str, Callable[[Path], Artifact]], Artifact]) -> tuple[Detector, Path]:
    detector = untrained()
    return detector, once("untrained", lambda path: detector.export("openvino", path)).path


def test_the_layers_have_the_arithmetic_of_the_model(tiny: tuple[Detector, Path]) -> None:
    detector, folder = tiny
    runtime = OpenVINORuntime(open_artifact(folder), threads=1, precision="fp32", cache=False)
    found = layers.profile(runtime, rounds=2)
    expected = measure_both(detector.config, 2).deploy.gflops
    assert sum(layer.gflops for layer in found.layers) == pytest.approx(expected, rel=0.02)
    assert found.milliseconds > 0
    assert all(layer.milliseconds > 0 and layer.mebibytes >= 0 for layer in found.layers)
    assert {"Convolution", "FullyConnected"} <= {layer.kind for layer in found.layers}


def test_a_convolution_s_bytes_and_operations_by_hand() -> None:
    x = opset13.parameter([1, 8, 16, 16], np.float32)
    x.output(0).set_names({"x"})
    weights = opset13.constant(np.ones((4, 8, 3, 3), np.float32))
    graph = openvino.Model([opset13.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [x])
    one = next(layer for layer in layers.profile_graph(graph, 1).layers if layer.gflops)
    assert one.gflops == pytest.approx(2e-9 * 4 * 256 * 8 * 9)
    assert one.values >= 8 * 256 + 4 * 8 * 9 + 4 * 256


def test_a_floor_is_the_longer_of_arithmetic_and_bytes() -> None:
    rates = Rates({"fp32": 100.0, "int8": 400.0}, cache=10.0, memory=5.0)
    busy = Layer("a", "Convolution", "f32", 9.0, gflops=1.0, values=1000, mebibytes=0.004)
    wide = busy._replace(gflops=1e-6, values=10_000_000)
    assert rates.floor(busy, "fp32") == pytest.approx(10.0)
    assert rates.floor(busy, "int8") == pytest.approx(2.5)
    assert rates.floor(wide, "fp32") == pytest.approx(4.0)
    assert rates.floor(wide, "int8") == pytest.approx(1.0)
    assert rates.floor(wide._replace(gflops=0.0), "fp32") == 0


def test_rates_know_the_precisions_of_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_SHAPES", ((32, 8, 1),))
    monkeypatch.setattr(layers, "_IN_MEMORY", 1 << 16)
    monkeypatch.setattr(layers, "_RATE_ROUNDS", 2)
    found = layers.measure_rates(1)
    assert {"fp32", "int8"} <= set(found.gflops)
    assert all(rate > 0 for rate in (*found.gflops.values(), found.cache, found.memory))
