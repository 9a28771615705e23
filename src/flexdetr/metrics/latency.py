"""How long a detector takes: each stage apart and end to end, several detectors side by side. No torch here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flexdetr.runtime.computation import Computation
from flexdetr.runtime.cpu import cores, cpu_features, processor

_Item = TypeVar("_Item")
STAGES = ("decode", "prepare", "infer", "finish")
END_TO_END = "end to end"
PERCENTILES = (50, 90, 99)
# Passes over the pictures with several worked on at a time, for pictures per second.
PASSES = 3
_CHILD = """
import json, sys, time
{code}
now = time.time()
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 2**-10) / 2**20
except ImportError:
    peak = None
print(json.dumps([now, peak]))
"""


class LatencyError(ValueError):
    """A detector that cannot be timed; the message says why."""


@dataclass(frozen=True)
class TimedDetector:
    """A detector taken apart.

    Attributes:
        name: how tables call it.
        what: what computes, like "OpenVINO on CPU in fp32".
        decode: a picture's file -> pixels (H, W, 3) uint8 RGB.
        prepare: pixels -> what the network is fed with.
        infer: that and the picture's (height, width) -> what the network answers.
        finish: the answer and (height, width) -> detections.
        predict: a picture's file -> detections, as a user calls it.
        predict_all: all of some files -> how many were predicted, as fast as it can.
        computation: ``what`` in parts, where they are known.
    """

    name: str
    what: str
    decode: Callable[[Path], Any]
    prepare: Callable[[Any], Any]
    infer: Callable[[Any, tuple[int, int]], Any]
    finish: Callable[[Any, tuple[int, int]], Any]
    predict: Callable[[Path], Any]
    predict_all: Callable[[Sequence[Path]], int]
    computation: Computation | None = None


@dataclass(frozen=True)
class ColdStart:
    """A process of its own, from its start to its first result.

    ``seconds`` are those with all imports, loading and compiling; ``memory`` is the largest resident set in
    MiB, None if the system does not tell.
    """

    seconds: float
    memory: float | None


@dataclass
class Timing:
    """What was measured of a detector.

    Attributes:
        name: of the subject.
        what: computes.
        milliseconds: of each stage and of "end to end", a number for each call.
        per_second: pictures per second with several worked on at a time, the median of some passes.
        start: see there; None if it was not measured.
        computation: of the subject.
    """

    name: str
    what: str
    milliseconds: dict[str, list[float]] = field(
        default_factory=lambda: {stage: [] for stage in (*STAGES, END_TO_END)}
    )
    per_second: float = float("nan")
    start: ColdStart | None = None
    computation: Computation | None = None

    def percentile(self, stage: str, percent: float) -> float:
        """Milliseconds that so many percent of the calls took at most."""
        return float(np.percentile(self.milliseconds[stage], percent))

    def to_json(self) -> dict[str, Any]:
        """All percentiles, pictures per second, memory and start."""
        stages = {
            stage: {f"p{percent}": round(self.percentile(stage, percent), 3) for percent in PERCENTILES}
            | {"mean": round(float(np.mean(values)), 3)}
            for stage, values in self.milliseconds.items()
        }
        return {
            "name": self.name,
            "what": self.what,
            "computation": self.computation and self.computation.to_json(),
            "calls": len(self.milliseconds[END_TO_END]),
            "milliseconds": stages,
            "pictures_per_second": round(self.per_second, 3),
            "memory_mib": self.start and self.start.memory and round(self.start.memory, 1),
            "start_seconds": self.start and round(self.start.seconds, 3),
        }


def measure(
    subjects: Sequence[TimedDetector],
    pictures: Sequence[Path],
    *,
    rounds: int = 50,
    warmup: int = 3,
    announce: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time detectors in alternation, so that a slow minute hits all alike.

    Raises:
        LatencyError: without pictures, subjects or rounds.
    """
    if not subjects or not pictures or rounds < 1:
        raise LatencyError("timing needs at least one detector, one picture and one round")
    timings = [Timing(subject.name, subject.what, computation=subject.computation) for subject in subjects]
    total = rounds + PASSES
    for turn in range(-warmup, rounds):
        picture = pictures[turn % len(pictures)]
        # Who goes first changes: the second one finds the file in memory, and the clock speed raised.
        for place in range(len(subjects)):
            chosen = (place + turn) % len(subjects)
            taken = _one(subjects[chosen], picture)
            if turn >= 0:
                for stage, milliseconds in taken.items():
                    timings[chosen].milliseconds[stage].append(milliseconds)
        if turn >= 0 and announce is not None:
            announce(turn + 1, total)
    many = [pictures[i % len(pictures)] for i in range(max(16, len(pictures)))]
    rates: list[list[float]] = [[] for _ in subjects]
    for turn in range(-1, PASSES):  # the first one compiles graphs for several pictures
        for subject, found in zip(subjects, rates, strict=True):
            began = time.perf_counter()
            count = subject.predict_all(many)
            if turn >= 0:
                found.append(count / (time.perf_counter() - began))
        if turn >= 0 and announce is not None:
            announce(rounds + turn + 1, total)
    for timing, found in zip(timings, rates, strict=True):
        timing.per_second = float(np.median(found))
    return timings


def _one(subject: TimedDetector, picture: Path) -> dict[str, float]:
    """Milliseconds of each stage, and of an ordinary call."""
    marks = [time.perf_counter()]
    image = subject.decode(picture)
    marks.append(time.perf_counter())
    feed = subject.prepare(image)
    marks.append(time.perf_counter())
    size = (int(image.shape[0]), int(image.shape[1]))
    answer = subject.infer(feed, size)
    marks.append(time.perf_counter())
    subject.finish(answer, size)
    marks.append(time.perf_counter())
    subject.predict(picture)
    marks.append(time.perf_counter())
    return dict(zip((*STAGES, END_TO_END), (1000 * np.diff(marks)).tolist(), strict=True))


def start_of(code: str, environment: Mapping[str, str] | None = None) -> ColdStart:
    """Run Python code in a process of its own, and say how long that took and how much memory.

    The code ends with the first result; ``environment`` has variables to add.

    Raises:
        LatencyError: if the code fails, with its last words.
    """
    began = time.time()
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _CHILD.format(code=code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        last = lines[-1] if lines else f"exit status {done.returncode}"
        raise LatencyError(f"a process of its own could not predict: {last}")
    now, peak = json.loads(lines[-1])
    return ColdStart(now - began, peak)


def machine() -> dict[str, Any]:
    """Where this runs: timings mean nothing without it."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "units": list(cpu_features()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def alternate(
    calls: Mapping[str, Callable[[_Item], object]], items: Sequence[_Item], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each subject's calls; the subjects take turns, so that a slow moment hits all alike.

    Each is called with every one of the ``items``, ``rounds`` times, after rounds of ``warmup`` that do not
    count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for item in items:
            for name, call in calls.items():
                began = time.perf_counter()
                call(item)
                if turn >= warmup:
                    seconds[name].append(time.perf_counter() - began)
    return seconds
