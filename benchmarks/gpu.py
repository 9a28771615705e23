"""A training step on a CUDA GPU: time, images per second, load and memory. `python benchmarks/gpu.py --help`.

One row a model, in bf16 and in float32, and beside each the same step by transformers, where that is installed and has
the model. Busy is the share of a step's time in which at least one kernel runs, as torch's profiler sees it; what is
missing to 100 % is the GPU waiting for the host.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from measure import alternate, machine, median
from train_step import stepper, transformers_stepper

COLUMNS = ("model", "step by", "ms per step", "images/s", "against transformers", "GPU busy", "peak memory")


class TimedStep(NamedTuple):
    """A step to measure."""

    model: str
    by: str
    make: Callable[[], Callable[[], None]]


class Row(NamedTuple):
    """What was measured of a step."""

    model: str
    by: str
    seconds: float
    busy: float
    peak_bytes: int


def subjects(
    models: Iterable[str], size: int, batch: int, classes: int, device: torch.device, rivals: bool
) -> list[TimedStep]:
    """Each model's step in bf16 and in float32, ours and transformers'."""
    found = []
    for name in models:
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            ours = _made(stepper, name, size, batch, classes, device, precision=precision)
            found.append(TimedStep(name, f"flexdetr {precision}", ours))
            if rivals:
                theirs = _made(transformers_stepper, name, size, batch, classes, device, dtype)
                found.append(TimedStep(name, f"transformers {precision}", theirs))
    return found


def _made(
    maker: Callable[..., Callable[[], None]], *arguments: object, **options: object
) -> Callable[[], Callable[[], None]]:
    return lambda: maker(*arguments, **options)


def busy_share(kernels: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """The share of a time in which at least one kernel runs.

    Args:
        kernels: (begin, end) of each, in any order; they may overlap.
        begin: of the time.
        end: of the time.
    """
    covered, reached = 0.0, begin
    for first, last in sorted(kernels):
        first, last = max(first, reached), min(last, end)
        if last > first:
            covered += last - first
            reached = last
    return covered / (end - begin)


def measure(subject: TimedStep, rounds: int) -> Row:
    """Time, memory and kernels of a step; the model is made here, and gone afterwards."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = subject.make()
    (seconds,) = alternate({subject.by: step}, rounds=rounds).values()
    peak = torch.cuda.max_memory_allocated()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function("steps"):
        for _ in range(3):
            step()
    events = profile.events() or []
    kernels = [
        (one.time_range.start, one.time_range.end)
        for one in events
        if one.device_type == torch.autograd.DeviceType.CUDA and not one.is_user_annotation
    ]
    (span,) = (
        one.time_range
        for one in events
        if one.name == "steps" and one.device_type == torch.autograd.DeviceType.CPU
    )
    busy = busy_share(kernels, span.start, span.end)
    return Row(subject.model, subject.by, median(seconds), busy, peak)


def table(rows: Iterable[Row], batch: int) -> list[str]:
    """The rows as a Markdown table; ours stand against transformers' of the same model and precision."""
    rows = list(rows)
    rivals = {(row.model, row.by.partition(" ")[2]): row for row in rows if row.by.startswith("transformers")}
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        rival = rivals.get((row.model, row.by.partition(" ")[2]))
        against = f"{rival.seconds / row.seconds:.2f} x" if rival is not None and rival is not row else ""
        cells = (
            row.model,
            row.by,
            f"{row.seconds * 1e3:.1f}",
            f"{batch / row.seconds:.1f}",
            against,
            f"{row.busy:.0%}",
            f"{row.peak_bytes / 2**20:,.0f} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["rtdetr_r18", "rtdetr_r50"])
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "this measures a CUDA GPU, and PyTorch finds none here: benchmarks/train_step.py measures a CPU"
        )
    rivals = importlib.util.find_spec("transformers") is not None
    print(machine())
    print(
        f"{arguments.size} px, batch {arguments.batch}, {arguments.classes} classes, medians of {arguments.rounds}"
        + ("" if rivals else "; transformers is not installed")
    )
    device = torch.device("cuda", torch.cuda.current_device())
    chosen = subjects(arguments.models, arguments.size, arguments.batch, arguments.classes, device, rivals)
    print(*table([measure(one, arguments.rounds) for one in chosen], arguments.batch), sep="\n")


if __name__ == "__main__":
    main()
