"""Fresh processes that score or use an artifact, each with a time limit, half of them beside other work: how many hang.

Threads that meet inside the one-time initialisations of native libraries hang now and then only, and only in a process
that has done nothing yet: a test that calls a function twice never sees it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from measure import machine, median

SUBJECTS = {
    "eval": ("eval", "{artifact}", "{data}", "--json"),
    "predict": ("predict", "{artifact}", "{data}/test", "--out", "{out}", "--json"),
}
# faulthandler says where every thread stands just before the process is ended.
CHILD = """
import faulthandler, sys
faulthandler.dump_traceback_later({limit}, exit=True)
from flexdetr.cli import main
sys.exit(main({arguments!r}))
"""
WORK = "while True: sum(range(10_000))"


def make_subject(folder: Path, side: int) -> tuple[Path, Path]:
    """An artifact of an untrained detector, and a data set of 12 pictures."""
    from flexdetr import Detector
    from flexdetr.data.scenes import CLASSES, draw_scenes

    data = draw_scenes(folder / "data", train=4, val=4, test=12, size=(96, 96))
    detector = Detector("flexdetr_pico", classes=CLASSES, image_size=(side, side))
    detector.export("openvino", folder / "artifact", data=str(data))
    return folder / "artifact", data


@contextlib.contextmanager
def other_work(processes: int) -> Iterator[None]:
    """So many processes that compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", WORK]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def run_once(arguments: list[str], limit: float) -> tuple[str, float, str]:
    """One fresh process: "done", "failed" or "hung", its seconds, and what it said where it was not done."""
    code = CHILD.format(limit=limit, arguments=arguments)
    started = time.monotonic()
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=limit + 30, check=False
        )
    except subprocess.TimeoutExpired as error:
        return "hung", time.monotonic() - started, str(error)
    seconds = time.monotonic() - started
    if answer.returncode == 0:
        return "done", seconds, ""
    return ("hung" if "Timeout (" in answer.stderr else "failed"), seconds, answer.stderr


def main() -> None:
    """Print how each process ended; exit 1 where any did not end by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=200, help="half of them beside other work")
    parser.add_argument("--half", choices=("idle", "busy"), help="only these, on a machine that is so")
    parser.add_argument(
        "--beside",
        type=int,
        default=2 * (os.cpu_count() or 1),
        help="processes that compute beside the busy half; 0 if the machine has other work of its own",
    )
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each")
    parser.add_argument("--verb", choices=sorted(SUBJECTS), default="eval")
    parser.add_argument("--artifact", type=Path, help="by default an untrained flexdetr_pico is exported")
    parser.add_argument("--data", type=Path, help="a data set with the artifact's classes")
    parser.add_argument("--side", type=int, default=64, help="of the exported one, in pixels")
    options = parser.parse_args()
    print(machine())
    counts: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        artifact, data = options.artifact, options.data
        if artifact is None or data is None:
            artifact, data = make_subject(Path(place), options.side)
        fill = {"artifact": artifact, "data": data, "out": Path(place) / "out"}
        arguments = [part.format(**fill) for part in SUBJECTS[options.verb]]
        halves = (
            ("idle", 0, (options.processes + 1) // 2),
            ("busy", options.beside, options.processes // 2),
        )
        for name, beside, processes in halves:
            if options.half not in (None, name):
                continue
            count, took = counts.setdefault(name, collections.Counter()), []
            with other_work(beside):
                for number in range(processes):
                    ended, seconds, said = run_once(arguments, options.limit)
                    count[ended] += 1
                    took.append(seconds)
                    if ended != "done":
                        print(f"{name} process {number + 1} {ended}:\n{said}", flush=True)
            ends = ", ".join(f"{count[kind]} {kind}" for kind in ("done", "failed", "hung"))
            print(
                f"{options.verb}, {name} machine: {processes} processes: {ends}; median {median(took):.1f} s",
                flush=True,
            )
    if any(count["done"] != count.total() for count in counts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
