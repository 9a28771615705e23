"""Where an OpenVINO graph's time goes: each layer's time beside its arithmetic, its bytes, and what the CPU could do.

A layer's floor is the longer of two times: its multiply-adds at the fastest rate that a convolution or product reaches
on this machine in a precision, and its bytes at the rate at which values in the cache are read and written. What
has no multiply-adds (activations, concatenations, reorders) could be part of a layer that has, so that its floor is 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import openvino
from openvino import opset13

from flexdetr.runtime.openvino import HINTS, OpenVINORuntime, computes_in, shared_core, thread_options
from flexdetr.runtime.parity import Precision

Arithmetic = Literal["fp32", "fp16", "bf16", "int8"]

_CONVOLUTIONS: Final = ("Convolution", "GroupConvolution", "Deconvolution")
_PRODUCTS: Final = ("FullyConnected", "MatMul")
_ATTENTION: Final = "ScaledDotProductAttention"
# Bytes of a value, by the precision that a layer is imagined in.
BYTES: Final[Mapping[Arithmetic, int]] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# What rates are measured with: (channels, side of the picture, side of the kernel), near the models' largest layers.
_SHAPES: Final = ((256, 40, 1), (128, 80, 1), (128, 40, 3), (256, 20, 3))
_IN_CACHE, _IN_MEMORY = 1 << 19, 1 << 24  # values of a tensor: 2 MiB, 64 MiB
_RATE_ROUNDS: Final = 12


class Layer(NamedTuple):
    """One operation that the runtime executes, with all that it has fused into it.

    Attributes:
        name: of the operation in the exported graph that gave it its name.
        kind: the runtime's word, like "Convolution".
        precision: what it computes in, as OpenVINO writes it: "f32", "bf16", "u8".
        milliseconds: the least of some calls.
        gflops: 1e9 operations, a multiply-add counted as two.
        values: numbers read and written: inputs, weights and outputs.
        mebibytes: the same in the precisions that they have.
    """

    name: str
    kind: str
    precision: str
    milliseconds: float
    gflops: float
    values: int
    mebibytes: float


class Profile(NamedTuple):
    """A graph's layers.

    Layers that cost nothing are left out; ``milliseconds`` are those of a whole call, the least of some.
    """

    layers: tuple[Layer, ...]
    milliseconds: float


class Rates(NamedTuple):
    """What this machine reaches with a number of threads.

    Attributes:
        gflops: 1e9 operations a second of the fastest convolution measured, by precision.
        cache: 1e9 bytes a second, read and written, of tensors that fit into the cache.
        memory: of tensors that do not.
    """

    gflops: Mapping[Arithmetic, float]
    cache: float
    memory: float

    def floor(self, layer: Layer, precision: Arithmetic) -> float:
        """Milliseconds that a layer takes at least in a precision; 0 for one without multiply-adds."""
        if not layer.gflops:
            return 0.0
        arithmetic = 1e3 * layer.gflops / self.gflops[precision]
        return max(arithmetic, 1e-6 * layer.values * BYTES[precision] / self.cache)


def profile(runtime: OpenVINORuntime, *, rounds: int = 20) -> Profile:
    """The layers of an artifact's graph, for one picture in the network's size.

    The runtime's threads and precision are kept. Each layer's least time of ``rounds`` calls counts: other work
    on the machine only adds.

    Raises:
        ArtifactError: if OpenVINO cannot compile the graph.
    """
    height, width = runtime.artifact.metadata.input.size
    return _profile(runtime.compile((1, height, width), PERF_COUNT=True, CACHE_DIR=""), rounds)


def profile_graph(
    graph: openvino.Model, rounds: int = 20, threads: int | None = None, precision: Precision = "fp32"
) -> Profile:
    """The layers of a graph of fixed shapes that belongs to no artifact.

    ``threads`` None takes what OpenVINO chooses; ``precision`` is what is computed in where the graph does not
    say int8.
    """
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True, **thread_options(threads)}
    options["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    return _profile(shared_core().compile_model(graph, "CPU", options), rounds)


def _profile(compiled: Any, rounds: int) -> Profile:  # noqa: ANN401 - openvino.CompiledModel
    drawn = np.random.default_rng(0)
    feeds = {
        taken.get_any_name(): drawn.integers(1, 256, tuple(taken.shape)).astype(taken.element_type.to_dtype())
        for taken in compiled.inputs
    }
    request = compiled.create_infer_request()
    least: dict[str, float] = {}
    whole = float("inf")
    for _ in range(rounds + 1):  # the first one allocates, and is never the least
        began = time.perf_counter()
        request.infer(feeds, share_inputs=True)
        whole = min(whole, 1e3 * (time.perf_counter() - began))
        for one in request.get_profiling_info():
            spent = 1e3 * one.real_time.total_seconds()
            least[one.node_name] = min(spent, least.get(one.node_name, spent))
    nodes = compiled.get_runtime_model().get_ordered_ops()
    layers = [_layer(node, least.get(node.get_friendly_name(), 0.0)) for node in nodes]
    return Profile(tuple(layer for layer in layers if layer.milliseconds > 0), whole)


def _layer(node: Any, milliseconds: float) -> Layer:  # noqa: ANN401 - openvino.Node
    facts = node.get_rt_info()
    kind, precision, originals = (
        str(getattr(facts[key], "value", facts[key])) if key in facts else ""
        for key in ("layerType", "runtimePrecision", "originalLayersNames")
    )
    ends = [*node.inputs(), *node.outputs()]
    sizes = [prod(_shape(end)) for end in ends]
    widths = [_width(end.get_element_type()) for end in ends]
    return Layer(
        node.get_friendly_name(),
        kind,
        precision,
        milliseconds,
        2e-9 * _multiply_adds(node, kind, originals),
        sum(sizes),
        sum(size * width for size, width in zip(sizes, widths, strict=True)) / 2**20,
    )


def _multiply_adds(node: Any, kind: str, originals: str) -> int:  # noqa: ANN401 - openvino.Node
    """Of convolutions and products, and of attention that the runtime has made one layer of."""
    shapes = [_shape(end) for end in node.inputs()]
    if kind == _ATTENTION or (kind == "Subgraph" and _ATTENTION in originals):
        tokens = [shape for shape in shapes if len(shape) > 2]
        if len(tokens) < 3:
            return 0
        # Every query's product with every key, and every weight's with every value; heads keep the widths' sum.
        return 2 * prod(tokens[0]) * _tokens(tokens[1])
    if not node.get_output_size() or len(shapes) < 2:
        return 0
    out = _shape(node.output(0))
    if kind in _CONVOLUTIONS:
        # Every weight meets each output position once; of a transposed one, each input position.
        positions = shapes[0][2:] if kind == "Deconvolution" else out[2:]
        return out[0] * prod(positions) * prod(shapes[1])
    if kind in _PRODUCTS and len(out) > 1 and out[-2]:
        return prod(out) * (prod(shapes[0][-2:]) // out[-2])
    return 0


def _tokens(shape: Sequence[int]) -> int:
    """Tokens of a tensor (B, S, heads, width), (B, heads, S, width) or (B, heads, width, S): its longest side but B."""
    return max(shape[1:])


def _shape(end: Any) -> tuple[int, ...]:  # noqa: ANN401 - openvino.Input or Output
    shape = end.get_partial_shape()
    return tuple(shape.to_shape()) if shape.is_static else ()


def _width(kind: Any) -> float:  # noqa: ANN401 - openvino.Type
    return kind.bitwidth / 8 if kind.is_static() else 0.0


def measure_rates(threads: int | None = None) -> Rates:
    """What this machine reaches now, in each precision that its CPU computes in.

    ``threads`` None takes what OpenVINO chooses.
    """
    floats: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    found: dict[Arithmetic, float] = {
        one: _best_rate(one, threads, in_int8=False) for one in floats if computes_in(one)
    }
    found["int8"] = _best_rate("fp32", threads, in_int8=True)
    cache, memory = (
        max(
            2**20 * 1e-6 * layer.mebibytes / layer.milliseconds
            for layer in profile_graph(_copy(size), _RATE_ROUNDS, threads).layers
        )
        for size in (_IN_CACHE, _IN_MEMORY)
    )
    return Rates(found, cache, memory)


def _best_rate(precision: Precision, threads: int | None, *, in_int8: bool) -> float:
    """1e9 operations a second of the fastest convolution."""
    graphs = [_convolutions(*shape, in_int8=in_int8) for shape in _SHAPES]
    profiles = [profile_graph(graph, _RATE_ROUNDS, threads, precision) for graph in graphs]
    return max(
        1e3 * layer.gflops / layer.milliseconds for one in profiles for layer in one.layers if layer.gflops
    )


def _convolutions(channels: int, side: int, kernel: int, *, in_int8: bool) -> openvino.Model:
    """Three convolutions in a row: the one in the middle takes and gives values as a network's layers do."""
    x = opset13.parameter([1, channels, side, side], np.float32)
    x.output(0).set_names({"x"})
    drawn = np.random.default_rng(0)
    shape = (channels, channels, kernel, kernel)
    value = x
    for _ in range(3):
        weights = drawn.integers(-127, 128, shape).astype(np.int8)
        scale = np.float32(1 / (127 * channels * kernel**2))
        if in_int8:
            value = _quantised(value)
            factor = opset13.multiply(opset13.convert(opset13.constant(weights), "f32"), scale)
        else:
            factor = opset13.constant(weights.astype(np.float32) * scale)
        pads = [kernel // 2] * 2
        value = opset13.relu(opset13.convolution(value, factor, [1, 1], pads, pads, [1, 1]))
    return openvino.Model([_quantised(value) if in_int8 else value], [x])


def _quantised(value: Any) -> Any:  # noqa: ANN401 - openvino.Node
    low, high = np.float32(0), np.float32(2.55)
    return opset13.fake_quantize(value, low, high, low, high, 256)


def _copy(size: int) -> openvino.Model:
    """A tensor read and written once."""
    x = opset13.parameter([1, 64, size // 64], np.float32)
    x.output(0).set_names({"x"})
    return openvino.Model([opset13.abs(x)], [x])
