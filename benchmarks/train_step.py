"""Optimisation steps: time, images per second and peak memory. `python benchmarks/train_step.py --help`.

With `--transformers` a preset stands beside transformers' own class with the same weights, in its default float32 step
and under bf16 autocast, and the ratios are printed. The last line of each model is what its products of matrices and
convolutions alone would take at the rate of a large product of each type, as measured in the same run: no step can be
faster. On a CPU all of them use the memory that they freed again, as FlexDETR's training does (``engine/memory.py``).
`--profile` shows what a step is made of.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from flexdetr.classes import Classes
from flexdetr.engine.compile import compile_parts
from flexdetr.engine.cpu_autocast import training_autocast
from flexdetr.engine.device import choose_device, choose_precision, precision_name
from flexdetr.engine.memory import keep_freed_memory
from flexdetr.engine.optim import build_optimizer
from flexdetr.engine.recipe import derive
from flexdetr.loss.criterion import Criterion
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Targets
from flexdetr.presets import resolve
from flexdetr.weights.trained import TrainedParts
from flexdetr.weights.transformers_export import to_transformers
from measure import alternate, machine, median, peak_memory_mib

_SIDE = 2048  # of the product that the machine's rate is taken from


def objects(batch: int, classes: int, device: torch.device) -> Targets:
    """Ten objects per image."""
    boxes = [torch.rand(10, 4) * 0.2 + 0.3 for _ in range(batch)]
    labels = [torch.randint(0, classes, (10,)) for _ in boxes]
    return Targets(labels, boxes, [*range(batch)]).to(device)


def stepper(
    name: str,
    size: int,
    batch: int,
    classes: int,
    device: torch.device,
    *,
    compiled: bool = False,
    precision: str = "auto",
) -> Callable[[], None]:
    """A function that does one whole optimisation step on noise with ten objects per image."""
    preset, *changes = name.split("+")
    parts = dict(change.split("=", 1) for change in changes)
    config = resolve(preset, image_size=size, train={"batch_size": batch}, **parts)
    torch.manual_seed(0)
    model = DetectionModel(config, classes).to(device, memory_format=torch.channels_last).train()
    trained = TrainedParts.of(model)
    config = derive(config, 1000, trained, model.backbone.lr_mult).config
    if compiled:
        compile_parts(model, device)
    optimizer = build_optimizer(model, config, trained)
    criterion = Criterion(config.loss, classes).to(device)
    dtype = choose_precision(precision, device)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    targets = objects(batch, classes, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with training_autocast(device, dtype):
            output = model(model.normalise(images).contiguous(memory_format=torch.channels_last), targets)
        criterion(output, targets).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=True)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def transformers_stepper(
    name: str, size: int, batch: int, classes: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """The same step by ``RTDetrForObjectDetection`` and a plain AdamW, as its documentation trains it."""
    from transformers import RTDetrForObjectDetection

    config = resolve(name, image_size=size)
    torch.manual_seed(0)
    state = DetectionModel(config, classes).state_dict()
    known = Classes.of([f"class {index}" for index in range(classes)])
    with tempfile.TemporaryDirectory() as folder:
        to_transformers(state, config, known, folder)
        model = RTDetrForObjectDetection.from_pretrained(folder).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.rand(batch, 3, size, size, device=device)
    targets = objects(batch, classes, device)
    labels = [
        {"class_labels": label, "boxes": box}
        for label, box in zip(targets.labels, targets.boxes, strict=True)
    ]
    narrow = dtype != torch.float32

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype) if narrow else nullcontext():
            loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def product(device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """A product of two large matrices: the fastest that this machine computes anything in a type."""
    first, second = (torch.rand(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        first @ second
        if device.type == "cuda":
            torch.cuda.synchronize()

    return multiply


def operations(step: Callable[[], None]) -> int:
    """Floating-point operations of the products and convolutions in a step, forwards and backwards."""

    def backwards(
        gradient: torch.Size,
        x: torch.Size,
        weight: torch.Size,
        *rest: Any,  # noqa: ANN401
        **_: object,
    ) -> int:
        """As many as forwards for each gradient; torch 2.15 counts groups as if they were none."""
        return sum(rest[-1][:2]) * conv_flop_count(list(x), list(weight), list(gradient))

    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: backwards}
    ) as counter:
        step()
    return counter.get_total_flops()


def show_profile(name: str, step: Callable[[], None], rounds: int, rows: int = 25) -> None:
    """What a step is made of: time inside each kind of operation, without those that it calls."""
    step()
    with torch.profiler.profile() as profile:
        for _ in range(rounds):
            step()
    found = [
        (max(one.self_cpu_time_total, one.self_device_time_total) / rounds / 1e3, one.count / rounds, one.key)
        for one in profile.key_averages()
    ]
    total = sum(ms for ms, _, _ in found)
    print(f"{name}: {total:.0f} ms per step, while profiled")
    for ms, calls, key in sorted(found, reverse=True)[:rows]:
        print(f"{ms:9.1f} ms {ms / total:6.1%} {calls:7.0f} x {key}")


def main() -> None:
    """Print one row a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models",
        nargs="*",
        default=["flexdetr_nano", "rtdetr_r18"],
        metavar="PRESET[+KEY=VALUE...]",
        help="with other parts for instance: flexdetr_nano+head=dfine",
    )
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--transformers", action="store_true", help="beside transformers, where it has the model"
    )
    parser.add_argument("--compile", action="store_true", help="beside the same with train.compile")
    parser.add_argument("--profile", action="store_true", help="what a step is made of, instead")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()
    subjects = {
        name: stepper(name, arguments.size, arguments.batch, arguments.classes, device)
        for name in arguments.models
    }
    if arguments.profile:
        for name, step in subjects.items():
            show_profile(name, step, arguments.rounds)
        return
    work = {name: operations(step) for name, step in subjects.items()}
    rivals = {"transformers fp32": torch.float32, "transformers bf16": torch.bfloat16}
    if arguments.transformers:
        for name in arguments.models:
            for rival, dtype in rivals.items():
                subjects[f"{name}, {rival}"] = transformers_stepper(
                    name, arguments.size, arguments.batch, arguments.classes, device, dtype
                )
    if arguments.compile:
        for name in arguments.models:
            subjects[f"{name}, compiled"] = stepper(
                name, arguments.size, arguments.batch, arguments.classes, device, compiled=True
            )
            began = time.perf_counter()
            subjects[f"{name}, compiled"]()
            print(f"{name}: {time.perf_counter() - began:.0f} s for the first compiled step")
    types = dict.fromkeys((torch.float32, choose_precision("auto", device)))
    products = {precision_name(dtype): product(device, dtype) for dtype in types}
    print(machine())
    print(
        f"{arguments.size} px, batch {arguments.batch}, {arguments.classes} classes, medians of {arguments.rounds}"
    )
    spent = alternate(subjects | products, rounds=arguments.rounds)
    medians = {name: median(spent[name]) for name in subjects}
    fastest = {name: 2 * _SIDE**3 / median(spent[name]) for name in products}
    for name, seconds in medians.items():
        own, _, rival = name.partition(", ")
        ratio = f"  {seconds / medians[own]:5.2f} times ours" if rival else ""
        print(f"{name:36s} {seconds * 1e3:8.1f} ms per step {arguments.batch / seconds:7.1f} images/s{ratio}")
    for name, count in work.items():
        print(f"{name}: {count / 1e9:.0f} GFLOP a step")
        for precision, rate in fastest.items():
            print(
                f"  {count / rate * 1e3:.0f} ms at the {rate / 1e9:.0f} GFLOP/s of a product of {_SIDE} x {_SIDE} in "
                f"{precision}"
            )
    print(f"peak memory of the process: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
