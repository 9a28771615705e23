"""What this machine can reach, and how near the models come to it.

    python benchmarks/roofline.py flexdetr_nano rtdetr_r18            presets with random weights
    python benchmarks/roofline.py best-openvino best-openvino-int8    artifacts

First the rates (1e9 operations and bytes a second) of the convolutions and products that a preset has most of, in
PyTorch and in OpenVINO; then, for each model or artifact, what ``flexdetr bench --layers`` shows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from openvino import Model, opset13
from torch import Tensor, nn

from flexdetr.api import Detector
from flexdetr.cli.layers import show_profile, show_rates
from flexdetr.deployed import ArtifactDetector
from flexdetr.export import openvino as writer
from flexdetr.export.prepare import Options, prepare
from flexdetr.model.fuse import deploy_form
from flexdetr.runtime.artifact import is_artifact
from flexdetr.runtime.cpu import bf16_supported
from flexdetr.runtime.layers import Rates, measure_rates, profile, profile_graph
from flexdetr.runtime.parity import Precision
from measure import alternate, machine

# Kernel, stride, groups, input channels, output channels, side; of a product: 0, 1, 1, inner, outer, rows.
Shape = tuple[int, int, int, int, int, int]
_ROWS = 8
_NAMES = [
    "layer",
    "times",
    "GFLOPs",
    "PyTorch fp32",
    "PyTorch bf16",
    "PyTorch int8",
    "OpenVINO fp32",
    "OpenVINO bf16",
    "OpenVINO int8",
]


def shapes_of(name: str, size: int) -> dict[Shape, int]:
    """The convolutions and linear layers of a preset's deploy form, with how often each is there."""
    detector = Detector(name, classes=[f"class {i}" for i in range(80)], image_size=size)
    model = deploy_form(detector.model)
    found: dict[Shape, int] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            key = (layer.kernel_size[0], layer.stride[0], layer.groups, layer.in_channels, layer.out_channels)
            shape = (*key, given[0].shape[-1])
        else:
            rows = answer[..., 0].numel()
            shape = (0, 1, 1, answer.shape[-1] and given[0].shape[-1], answer.shape[-1], rows)
        found[shape] = found.get(shape, 0) + 1

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return found


def gflops(shape: Shape) -> float:
    """1e9 operations of one layer."""
    kernel, stride, groups, inner, outer, side = shape
    if not kernel:
        return 2e-9 * side * inner * outer
    return 2e-9 * (side // stride) ** 2 * outer * (inner // groups) * kernel**2


def in_torch(shape: Shape) -> dict[str, Callable[[], object]]:
    """The layer in PyTorch, by precision."""
    kernel, stride, groups, inner, outer, side = shape
    calls: dict[str, Callable[[], object]] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "bf16" and not bf16_supported():
            continue
        if kernel:
            x = torch.rand(1, inner, side, side, dtype=dtype).to(memory_format=torch.channels_last)
            w = torch.rand(outer, inner // groups, kernel, kernel, dtype=dtype)
            w = w.to(memory_format=torch.channels_last)
            calls[name] = lambda x=x, w=w: F.conv2d(x, w, None, stride, kernel // 2, 1, groups)
        else:
            x, w = torch.rand(side, inner, dtype=dtype), torch.rand(outer, inner, dtype=dtype)
            calls[name] = lambda x=x, w=w: F.linear(x, w)
    if not kernel:
        x = torch.randint(-127, 128, (side, inner), dtype=torch.int8)
        w = torch.randint(-127, 128, (inner, outer), dtype=torch.int8)
        calls["int8"] = lambda x=x, w=w: torch._int_mm(x, w)
    return calls


def in_openvino(shape: Shape, *, int8: bool) -> Model:
    """The layer in OpenVINO; in int8 with what turns its input and output into it."""
    kernel, stride, groups, inner, outer, side = shape
    x = opset13.parameter([1, inner, side, side] if kernel else [side, inner], np.float32)
    x.output(0).set_names({"x"})
    form = (outer, inner // groups, kernel, kernel) if kernel else (outer, inner)
    if groups > 1:
        form = (groups, outer // groups, inner // groups, kernel, kernel)
    drawn = np.random.default_rng(0).integers(-127, 128, form).astype(np.int8)
    low, high = np.float32(0), np.float32(2.55)
    value = opset13.fake_quantize(x, low, high, low, high, 256) if int8 else x
    factor = opset13.multiply(opset13.convert(opset13.constant(drawn), "f32"), np.float32(1e-4))
    if not int8:
        factor = opset13.constant(drawn.astype(np.float32) * np.float32(1e-4))
    if kernel:
        pads = [kernel // 2] * 2
        layer = opset13.group_convolution if groups > 1 else opset13.convolution
        answer = layer(value, factor, [stride] * 2, pads, pads, [1, 1])
    else:
        answer = opset13.matmul(value, factor, transpose_a=False, transpose_b=True)
    answer = opset13.relu(answer)
    return Model([opset13.fake_quantize(answer, low, high, low, high, 256) if int8 else answer], [x])


def show_shapes(name: str, size: int, threads: int, rounds: int) -> None:
    """The rates of a preset's most expensive layers."""
    found = shapes_of(name, size)
    chosen = sorted(found, key=lambda shape: -gflops(shape) * found[shape])[:_ROWS]
    print(f"\n{name} at {size}: GFLOP/s of its layers, {threads} threads, the least time of {rounds} calls")
    print("| " + " | ".join(_NAMES) + " |\n" + "|---" * len(_NAMES) + "|")
    for shape in chosen:
        work = gflops(shape)
        seconds = alternate(in_torch(shape), rounds=rounds)
        cells = [
            f"{work / min(seconds[key]):.0f}" if key in seconds else "" for key in ("fp32", "bf16", "int8")
        ]
        for precision in ("fp32", "bf16", "int8"):
            if precision == "bf16" and not bf16_supported():
                cells.append("")
                continue
            graph = in_openvino(shape, int8=precision == "int8")
            rest: Precision = "bf16" if precision == "bf16" else "fp32"
            spent = [one for one in profile_graph(graph, rounds, threads, rest).layers if one.gflops]
            cells.append(f"{work / (1e-3 * spent[0].milliseconds):.0f}" if spent else "")
        kernel, stride, groups, inner, outer, side = shape
        grouped = f" / {groups}" if groups > 1 else ""
        said = f"{side} x {inner} -> {outer}"
        if kernel:
            said = f"{kernel}x{kernel}, {inner} -> {outer}{grouped}, {side} px, stride {stride}"
        print(f"| {said} | {found[shape]} | {work:.3f} | " + " | ".join(cells) + " |")


def show_preset(name: str, size: int, threads: int, rounds: int, rates: Rates) -> None:
    """The layers of a preset with random weights, written for OpenVINO without a proof, in each precision."""
    detector = Detector(name, classes=[f"class {i}" for i in range(80)], image_size=size)
    form = prepare(detector.model, Options(size=(size, size), resize_inside=True, sampling="gather"))
    with tempfile.TemporaryDirectory() as folder:
        writer.write(form, Path(folder), "fp32", ())
        graph = writer.read_whole(Path(folder) / writer.MODEL)
    graph.reshape({"images": [1, size, size, 3], "sizes": [1, 2]})
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if bf16_supported() else ("fp32",)
    for precision in precisions:
        found = profile_graph(graph, rounds, threads, precision)
        show_profile(name, f"OpenVINO in {precision}, {threads} threads", found, rates)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("subjects", nargs="+", metavar="MODEL|FILE")
    parser.add_argument("--image-size", type=int, default=640, help="of presets")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(machine())
    rates = measure_rates(arguments.threads)
    show_rates(rates)
    for name in arguments.subjects:
        if is_artifact(name):
            runtime = ArtifactDetector(name, runtime="openvino", threads=arguments.threads).runtime()
            show_profile(name, runtime.description, profile(runtime, rounds=arguments.rounds), rates)  # type: ignore[arg-type]
        else:
            show_shapes(name, arguments.image_size, arguments.threads, arguments.rounds)
            show_preset(name, arguments.image_size, arguments.threads, arguments.rounds, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
