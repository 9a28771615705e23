"""What each precision costs in accuracy and takes in time: PyTorch, OpenVINO and onnxruntime on one machine.

    python benchmarks/precision.py best.safetensors data/ [OTHER.safetensors DATA ...]

Prints a Markdown table with the CPU and the command. Every row is scored on the same pictures (``--split``), without a
threshold; milliseconds are medians of one picture from its array to its boxes, all rows in alternation with the same
number of threads. Artifacts are exported into ``--work`` and used again where they are there already.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flexdetr.api import Detector
from flexdetr.data.detect import read
from flexdetr.data.images import read_image
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.make import DriftError
from flexdetr.runtime.cpu import bf16_supported
from flexdetr.runtime.openvino import computes_in
from measure import alternate, machine, median, parser_of

# What a precision may lose of the AP before its row has to say why.
ALLOWED = 0.003
# (format, precision of the file)
EXPORTS = (("openvino", "fp32"), ("openvino", "int8"), ("onnx", "fp32"), ("onnx", "int8"))
RUNTIMES = {"openvino": "OpenVINO", "onnx": "onnxruntime"}


@dataclass
class Refused:
    """A file that the export did not make.

    Attributes:
        what: in words.
        note: why.
    """

    what: str
    note: str


@dataclass
class Running:
    """One way to compute.

    Attributes:
        what: in words.
        score: gives AP and AP50.
        predict: finds objects in one picture.
        note: what is to be said of it.
    """

    what: str
    score: Callable[[], tuple[float, float]]
    predict: Callable[[Any], object]
    note: str = ""
    ap: float = math.nan
    ap50: float = math.nan
    seconds: list[float] = field(default_factory=list)


def of_torch(detector: Detector, data: Path, split: str) -> Iterator[Running]:
    """The checkpoint in PyTorch, in both precisions."""
    detector.runtime = "torch"
    for precision in ("fp32", "bf16"):

        def score(precision: str = precision) -> tuple[float, float]:
            metrics = detector.evaluate(data, split, precision=precision, device="cpu")
            return metrics.ap, metrics.ap50

        def predict(image: Any, precision: str = precision) -> object:  # noqa: ANN401 - see Detector.predict
            return detector.predict(image, 0.4, precision=precision, device="cpu")

        note = "" if precision == "fp32" or bf16_supported() else "emulated: this CPU has no bf16"
        yield Running(f"PyTorch, {precision}", score, predict, note)


def of_artifact(file: ArtifactDetector, words: str, precision: Any, data: Path, split: str) -> Running:  # noqa: ANN401
    """An artifact, computed in a precision (None where its runtime knows one only)."""

    def score() -> tuple[float, float]:
        metrics = file.evaluate(data, split, precision=precision)
        return metrics.ap, metrics.ap50

    return Running(
        words, score, lambda image: file.predict(image, 0.4, precision=precision), kept(file, precision)
    )


def kept(file: ArtifactDetector, precision: Any) -> str:  # noqa: ANN401
    """What the export found out about this precision."""
    proven = file.metadata.precisions.get(precision or "fp32")
    notes = [] if proven is None or proven.passed else [f"its proof failed: {proven.reason}"]
    int8 = file.metadata.made.get("int8") or {}
    if left := int8.get("float"):
        notes.append(f"{len(left)} parts kept in float")
    return "; ".join(notes)


def of_exports(
    detector: Detector, work: Path, data: Path, options: argparse.Namespace
) -> Iterator[Running | Refused]:
    """Each precision of the formats; one that the export refuses is a row that says so."""
    for kind, precision in EXPORTS:
        if kind not in options.formats:
            continue
        words = f"{RUNTIMES[kind]}, {precision}"
        folder = work / f"{kind}-{precision}"
        if not (folder / "metadata.json").is_file():
            print(f"exporting {folder}", file=sys.stderr, flush=True)
            try:
                limit = {"max_drop": options.max_drop} if precision == "int8" else {}
                detector.export(kind, folder, precision=precision, data=data, **limit)
            except DriftError as error:
                yield Refused(words, f"refused by the export: {error}")
                continue
        file = ArtifactDetector(folder, threads=options.threads)
        if kind == "onnx":
            yield of_artifact(file, words, None, data, options.split)
            continue
        around = " in {}" if precision == "int8" else ""
        yield of_artifact(
            file,
            words + (f", the rest{around.format('fp32')}" if around else ""),
            "fp32",
            data,
            options.split,
        )
        if computes_in("bf16"):
            faster = f"{words}, the rest in bf16" if around else f"{RUNTIMES[kind]}, bf16"
            yield of_artifact(file, faster, "bf16", data, options.split)


def measured(rows: list[Running | Refused], pictures: list[Any], rounds: int) -> None:
    """Fill in scores and times."""
    running = [row for row in rows if isinstance(row, Running)]
    for row in running:
        row.ap, row.ap50 = row.score()
        print(f"{row.what}: AP {row.ap:.4f}", file=sys.stderr, flush=True)

    def over(predict: Callable[[Any], object]) -> Callable[[], object]:
        return lambda: [predict(picture) for picture in pictures]

    calls = {row.what: over(row.predict) for row in running}
    for what, seconds in alternate(calls, rounds=rounds).items():
        next(row for row in running if row.what == what).seconds = [one / len(pictures) for one in seconds]


def table(name: str, about: str, rows: list[Running | Refused]) -> str:
    """Markdown; rows that lose more than is allowed are marked, and say what is known."""
    base = next(row.ap for row in rows if isinstance(row, Running))  # the first is PyTorch in float32
    lines = [
        f"`{name}`, {about}:",
        "",
        "| computed in | AP | AP - float32 | AP50 | ms per picture | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if isinstance(row, Refused):
            lines.append(f"| {row.what} | | | | | {row.note} |")
            continue
        note = row.note
        if row.ap < base - ALLOWED:
            note = f"loses more than {ALLOWED}" + (f"; {note}" if note else "")
        milliseconds = 1000 * median(row.seconds)
        lines.append(
            f"| {row.what} | {row.ap:.4f} | {row.ap - base:+.4f} | {row.ap50:.4f} | {milliseconds:.1f} | {note} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every checkpoint on its data."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "subjects", nargs="+", metavar="CHECKPOINT DATA", help="pairs of a checkpoint and its data"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--image-size", help="another than that of the training: for the times, not for the AP"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds over 4 pictures")
    parser.add_argument(
        "--max-drop", type=float, default=ALLOWED, help="of AP in int8; 1 where only the times matter"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=[*RUNTIMES], default=[*RUNTIMES], help="artifacts beside PyTorch"
    )
    parser.add_argument("--work", type=Path, help="keep the artifacts here; a folder for each checkpoint")
    arguments = parser.parse_args()
    if len(arguments.subjects) % 2:
        parser.error("give pairs: a checkpoint, then its data")
    torch.set_num_threads(arguments.threads)
    changes = {} if arguments.image_size is None else {"image_size": arguments.image_size}
    command = shlex.join(["benchmarks/precision.py", *sys.argv[1:]])
    print(f"    python {command}\n\n{machine()}, threads: {arguments.threads}")
    with tempfile.TemporaryDirectory() as scratch:
        pairs = zip(arguments.subjects[::2], arguments.subjects[1::2], strict=True)
        for number, (checkpoint, place) in enumerate(pairs):
            detector, data = Detector.from_checkpoint(checkpoint, **changes), Path(place)
            work = (arguments.work or Path(scratch)) / f"{number}-{detector.config.model}"
            records = read(data).with_classes(detector.classes).split(arguments.split)
            rows = [
                *of_torch(detector, data, arguments.split),
                *of_exports(detector, work, data, arguments),
            ]
            measured(rows, [read_image(record.path) for record in records[:4]], arguments.rounds)
            height, width = detector.config.image_size
            about = f"{len(records)} pictures of {data}, split {arguments.split}, at {height}x{width}"
            print(f"\n{table(detector.config.model, about, rows)}", flush=True)


if __name__ == "__main__":
    main()
