"""How the benchmarks measure: several subjects in alternation, medians, and the machine named beside the numbers."""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from flexdetr.metrics import latency


def alternate(
    subjects: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of each subject's calls; one call of each a round, so that a slow minute hits all alike.

    Args:
        subjects: what to time, by name.
        rounds: timed calls of each.
        warmup: calls of each before the first timed one.
    """
    calls = {name: lambda _, call=call: call() for name, call in subjects.items()}
    return latency.alternate(calls, (None,), rounds=rounds, warmup=warmup)


def median(seconds: list[float]) -> float:
    """The middle value."""
    return statistics.median(seconds)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a module's text, as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def drawn_pictures(folder: Path, count: int) -> list[Path]:
    """Scenes of 640x480 as JPEG files."""
    import numpy as np
    from PIL import Image

    from flexdetr.data.scenes import draw_scene

    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(draw_scene(np.random.default_rng(number), (480, 640)).image).save(path, quality=90)
    return paths


def peak_memory_mib() -> float:
    """The largest resident set that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> str:
    """One line about where this runs."""
    import os

    import torch

    from flexdetr.runtime.cpu import processor

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}, Python {platform.python_version()}"
