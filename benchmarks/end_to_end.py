"""Detectors end to end on real pictures: the network, the suppression of overlapping boxes, and their sum.

A detector with queries ends with its network. A dense one is not done until overlapping boxes are suppressed, and how
long that takes depends on the picture and on the score above which boxes are candidates: at a score of 0.001, with
which AP is published, there are many. So every row says the AP at the same limits as its time, from one artifact:

    python benchmarks/end_to_end.py ../shared/data/bccd runs/flexdetr_nano/best.safetensors runs/yolov8/best.safetensors

Networks run in OpenVINO in float32 on ``--threads`` threads, one picture at a time. Suppression is torchvision's, on
the same threads, behind a graph without it, and OpenVINO's inside the graph ("inside"), where the network's time is
that of the graph without it. The pictures are a split of the data, and a grey one, on which nothing is to be found. All
ways take turns on each picture. ``end_to_end.svg`` shows milliseconds against candidates, beside ``end_to_end.json``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.api import Detector
from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.data.detect import read
from flexdetr.data.images import read_image
from flexdetr.loading import load
from flexdetr.metrics.coco_map import evaluate
from flexdetr.model.outputs import Prediction
from flexdetr.model.suppression import after_suppression
from flexdetr.runtime.artifact import Artifact
from flexdetr.runtime.nms import Limits
from flexdetr.runtime.openvino import OpenVINORuntime
from flexdetr.runtime.process import MAX_DETECTIONS, resize
from measure import machine, parser_of

LIMITS = ((0.001, 0.7), (0.01, 0.7), (0.05, 0.7), (0.25, 0.7))
PERCENTILES = (50, 90, 99)
DetectionArrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@dataclass
class Way:
    """One detector with one way of choosing boxes, and what was measured of it.

    Attributes:
        model: its preset.
        suppression: "none", "torchvision" or "inside".
        limits: of the suppression.
        network: a picture in the network's size and the original's (height, width) -> the graph's outputs.
        finish: these and the size -> boxes xyxy in pixels, scores, labels; what takes the suppression's time.
        milliseconds: (network, suppression) of each call.
        candidates: of each call: (box, class) pairs above the score; -1 if the graph does not show them.
        found: by image id.
    """

    model: str
    suppression: str
    limits: Limits | None
    network: Callable[[NDArray[np.uint8], tuple[int, int]], Sequence[NDArray[Any]]]
    finish: Callable[[Sequence[NDArray[Any]], tuple[int, int]], DetectionArrays]
    milliseconds: list[tuple[float, float]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    found: dict[int | str, DetectionArrays] = field(default_factory=dict)


def ways_of(detector: Detector, folder: Path, threads: int) -> list[Way]:
    """All ways of one detector; each artifact is proven when it is written."""
    model = detector.config.model
    if detector.model.head.limits is None:
        runtime = opened(detector.export("openvino", folder / model), threads)
        return [Way(model, "none", None, feeding(runtime), chosen)]
    raw = opened(detector.export("openvino", folder / f"{model}_raw", raw=True), threads)
    ways = []
    for score, iou in LIMITS:
        limits = Limits(score, iou, MAX_DETECTIONS)
        ways.append(Way(model, "torchvision", limits, feeding(raw), suppressing(limits)))
        detector.model.head.limits = limits
        inside = opened(detector.export("openvino", folder / f"{model}_{score:g}"), threads)
        ways.append(Way(model, "inside", limits, feeding(inside), chosen))
    return ways


def opened(artifact: Artifact, threads: int) -> OpenVINORuntime:
    """The artifact in float32, in which it was proven."""
    return OpenVINORuntime(artifact, threads=threads, precision="fp32", cache=False)


def feeding(
    runtime: OpenVINORuntime,
) -> Callable[[NDArray[np.uint8], tuple[int, int]], Sequence[NDArray[Any]]]:
    """The graph for one picture."""
    if runtime.artifact.metadata.raw:
        return lambda picture, _: runtime.infer(picture[None])
    return lambda picture, size: runtime.infer(picture[None], np.array([size], np.int64))


def chosen(answer: Sequence[NDArray[Any]], _: tuple[int, int]) -> DetectionArrays:
    """What a graph chose itself; rows that it filled up with have the score 0."""
    boxes, scores, labels = (part[0] for part in answer)
    there = scores > 0
    return boxes[there], scores[there], labels[there]


def suppressing(limits: Limits) -> Callable[[Sequence[NDArray[Any]], tuple[int, int]], DetectionArrays]:
    """Suppression by torchvision behind a graph without it."""

    def finish(answer: Sequence[NDArray[Any]], size: tuple[int, int]) -> DetectionArrays:
        logits, boxes = (torch.from_numpy(part) for part in answer)
        with torch.inference_mode():
            parts = after_suppression(
                Prediction(logits, boxes), torch.tensor([size]), limits, limits.max_detections
            )
        return chosen([part.numpy() for part in parts], size)

    return finish


def call(
    way: Way, picture: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[DetectionArrays, float, float, int]:
    """One picture: what was found, milliseconds of network and suppression, and candidates."""
    marks = [time.perf_counter()]
    answer = way.network(picture, size)
    marks.append(time.perf_counter())
    found = way.finish(answer, size)
    marks.append(time.perf_counter())
    candidates = -1
    if way.suppression == "torchvision" and way.limits is not None:
        border = np.log(way.limits.score / (1 - way.limits.score))
        candidates = int((answer[0] > border).sum())
    network, finish = 1000 * np.diff(marks)
    return found, float(network), float(finish), candidates


def measure(
    ways: Sequence[Way], records: Sequence[Record], sizes: Sequence[tuple[int, int]], rounds: int
) -> None:
    """Run every way on every picture and a grey one, in alternation; the first round warms up and gives the AP."""
    pictures = [(record.image_id, read_image(record.path)) for record in records]
    pictures.append(("grey", np.full((*pictures[0][1].shape[:2], 3), 114, np.uint8)))
    for turn in range(rounds + 1):
        for image_id, image in pictures:
            size = (image.shape[0], image.shape[1])
            for place in range(len(ways)):
                index = (place + turn) % len(ways)
                way = ways[index]
                found, network, finish, candidates = call(way, resize(image, sizes[index]), size)
                if not turn:
                    if image_id != "grey":
                        way.found[image_id] = found
                    continue
                way.milliseconds.append((network, finish))
                way.candidates.append(candidates)


def row(way: Way, raw: Way | None, records: Sequence[Record], classes: Classes) -> dict[str, Any]:
    """What a way needs and finds.

    Args:
        way: the way.
        raw: of a graph with suppression inside, the way of the same limits without: its network is taken off.
        records: the labelled pictures.
        classes: of the detector.
    """
    times = np.array(way.milliseconds)
    total = times.sum(1)
    network = times[:, 0] if raw is None else np.array(raw.milliseconds)[:, 0]
    suppression = times[:, 1] if raw is None else times[:, 0] - network
    metrics = evaluate(records, way.found, classes)
    seen = [count for count in (way if raw is None else raw).candidates if count >= 0]
    return {
        "model": way.model,
        "suppression": way.suppression,
        "score": way.limits and way.limits.score,
        "iou": way.limits and way.limits.iou,
        "ap": metrics.ap,
        "ap50": metrics.ap50,
        "candidates": seen and {f"p{percent}": int(np.percentile(seen, percent)) for percent in PERCENTILES},
        **{
            name: {f"p{percent}": round(float(np.percentile(values, percent)), 3) for percent in PERCENTILES}
            for name, values in (("network", network), ("suppressing", suppression), ("sum", total))
        },
    }


def plot(ways: Sequence[Way]) -> str:
    """Milliseconds of torchvision's suppression against candidates, a point a call; both axes logarithmic. SVG."""
    colours = ("#5b8def", "#f2a541", "#4fb286", "#c0504d")
    chosen_ways = [way for way in ways if way.suppression == "torchvision"]
    points = [
        (max(1, count), times[1], colours[LIMITS.index((way.limits.score, way.limits.iou)) % len(colours)])
        for way in chosen_ways
        if way.limits is not None
        for count, times in zip(way.candidates, way.milliseconds, strict=True)
    ]
    left, top, width, height = 70, 40, 600, 320
    most, slow = (max([each[i] for each in points], default=1) for i in (0, 1))
    least = min([each[1] for each in points], default=0.1)
    across = width / max(np.log10(most), 1e-6)
    up = height / max(np.log10(slow / least), 1e-6)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{top + height + 60}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    parts += [
        f'<circle cx="{left + np.log10(count) * across:.1f}" cy="{top + height - np.log10(slowness / least) * up:.1f}" '
        f'r="2" fill="{colour}" fill-opacity="0.5"/>'
        for count, slowness, colour in points
    ]
    for power in range(int(np.log10(most)) + 1):
        parts.append(
            f'<text x="{left + power * across:.1f}" y="{top + height + 18}" text-anchor="middle">{10**power:,}</text>'
        )
    for value in np.geomspace(least, slow, 5):
        y = top + height - np.log10(value / least) * up
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    for place, ((score, iou), colour) in enumerate(zip(LIMITS, colours, strict=True)):
        parts.append(
            f'<text x="{left + 150 * place}" y="20" fill="{colour}">score {score:g}, IoU {iou:g}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">boxes above the score; '
        "vertically milliseconds of torchvision's suppression</text></svg>"
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure, print a table, and write the numbers and the plot."""
    parser = parser_of(__doc__)
    parser.add_argument("data", help="folder of the labelled pictures")
    parser.add_argument("checkpoints", nargs="+", help="trained on this data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--pictures", type=int, default=100, help="at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("end_to_end"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    ways: list[Way] = []
    sizes: list[tuple[int, int]] = []
    loaded = [load(checkpoint) for checkpoint in asked.checkpoints]
    detectors = [detector for detector in loaded if isinstance(detector, Detector)]
    if len(detectors) < len(loaded):
        parser.error("artifacts hold no weights to export: name the checkpoints that they were made of")
    classes = detectors[0].classes
    if any(detector.classes != classes for detector in detectors):
        parser.error("these checkpoints have different classes: they were trained on different data")
    with tempfile.TemporaryDirectory() as folder:
        for number, detector in enumerate(detectors):
            own = ways_of(detector, Path(folder) / str(number), asked.threads)
            ways += own
            sizes += [detector.config.image_size] * len(own)
        records = read(asked.data).with_classes(classes).split(asked.split)[: asked.pictures]
        measure(ways, records, sizes, asked.rounds)
    rows = []
    for way in ways:
        raw = next(
            (
                other
                for other in ways
                if (other.model, other.limits, other.suppression) == (way.model, way.limits, "torchvision")
            ),
            None,
        )
        rows.append(row(way, raw if way.suppression == "inside" else None, records, classes))
    asked.out.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "pictures": len(records), "threads": asked.threads, "rows": rows}
    (asked.out / "end_to_end.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (asked.out / "end_to_end.svg").write_text(plot(ways), encoding="utf-8")
    print(f"{len(records)} pictures of {asked.data} and a grey one, {asked.threads} threads; {machine()}")
    print(
        "| detector | suppression | score, IoU | candidates p50 / p99 | network p50 | suppression p50 / p90 / p99 "
        "| sum p50 / p90 / p99 | AP | AP50 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for one in rows:
        limits = "-" if one["score"] is None else f"{one['score']:g}, {one['iou']:g}"
        count = "-" if not one["candidates"] else f"{one['candidates']['p50']} / {one['candidates']['p99']}"
        later, total = (
            " / ".join(f"{one[name][f'p{p}']:.2f}" for p in PERCENTILES) for name in ("suppressing", "sum")
        )
        print(
            f"| {one['model']} | {one['suppression']} | {limits} | {count} | {one['network']['p50']:.2f} | "
            f"{'-' if one['suppression'] == 'none' else later} | {total} | {one['ap']:.3f} | {one['ap50']:.3f} |"
        )


if __name__ == "__main__":
    main()
