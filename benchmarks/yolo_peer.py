"""YOLO beside FlexDETR on this CPU, file to boxes: alternating calls, the same pictures, one run.

    python benchmarks/yolo_peer.py --peer /tmp/peer/bin/python --yolo yolo26n --ours flexdetr_nano
    python benchmarks/yolo_peer.py --peer /tmp/peer/bin/python --yolo yolo26n.pt --ours best-openvino best-openvino-int8

The package ``ultralytics`` (AGPL-3.0) is no part of this project and of no environment of it. It is called as its
documentation tells users to, in a process and an environment of its own, which you make with

    python -m venv /tmp/peer && /tmp/peer/bin/pip install ultralytics openvino nncf

There it exports the model for OpenVINO by its own export, in each precision asked for, and predicts one picture for
each line that it is sent. The two processes take turns, so that each works on an idle machine. A preset, or a name like
``yolo26n`` without ``.pt``, gets random weights: enough for milliseconds, not for AP.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import numpy as np

from flexdetr.cli.bench import open_detector
from measure import alternate, drawn_pictures, machine, median

# What runs on the other side: the documented calls of the package alone.
_PEER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the package says goes beside the answers
from ultralytics import YOLO
name, precision, size, data = json.loads(sys.argv[1])
model = YOLO(name if name.endswith(".pt") else name + ".yaml")
options = {"int8": {"int8": True, "data": data}, "fp16": {"half": True}, "fp32": {}}[precision]
exported = YOLO(model.export(format="openvino", imgsz=size, **options), task="detect")
for line in sys.stdin:
    picture = json.loads(line)
    began = time.perf_counter()
    answer = exported.predict(picture, imgsz=size, device="cpu", verbose=False)[0]
    boxes = answer.boxes.xyxy.numpy()
    spent = time.perf_counter() - began
    print(json.dumps([spent, len(boxes)]), file=answers, flush=True)
"""


def environment(threads: int) -> dict[str, str]:
    """The other process's variables: its threads, no network, and none of our modules."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "OMP_NUM_THREADS": str(threads), "YOLO_OFFLINE": "true"}


class Peer:
    """A process of the other package that predicts pictures when told to.

    Args:
        python: its environment's interpreter.
        name: its model.
        precision: of its export: "fp32", "fp16" or "int8".
        size: of the pictures that the network sees.
        data: its description of the data to calibrate int8 on.
        threads: of the CPU.
        folder: where it may write.
    """

    def __init__(
        self, python: Path, name: str, precision: str, size: int, data: str, threads: int, folder: Path
    ) -> None:
        given = json.dumps([name, precision, size, data])
        self._process = subprocess.Popen(
            [str(python), "-c", _PEER, given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(threads),
        )
        self._asks, self._answers = (
            cast("IO[str]", end) for end in (self._process.stdin, self._process.stdout)
        )

    def predict(self, picture: Path) -> tuple[float, int]:
        """Seconds that it says it took, and how many boxes it found."""
        self._asks.write(json.dumps(str(picture)) + "\n")
        self._asks.flush()
        line = self._answers.readline()
        if not line:
            raise SystemExit(
                f"the other process ended with status {self._process.wait()}; its words stand above"
            )
        seconds, count = json.loads(line)
        return float(seconds), int(count)

    def close(self) -> None:
        """End it."""
        self._asks.close()
        self._process.wait(timeout=60)


def pictures(folder: Path | None, scratch: Path) -> list[Path]:
    """Twelve pictures of a folder, or as many drawn ones of 640x480."""
    if folder is not None:
        found = sorted(
            one.resolve() for one in folder.rglob("*") if one.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not found:
            raise SystemExit(f"{folder} holds no picture")
        return found[:12]
    return drawn_pictures(scratch, 12)


def main() -> int:
    """Print one row for each, with the ratio to the peer's best."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--peer", type=Path, required=True, help="the interpreter of the other environment")
    parser.add_argument("--yolo", nargs="+", default=["yolo26n"], help="its models")
    parser.add_argument(
        "--yolo-precision", nargs="+", default=["fp32", "fp16"], help="of its exports: fp32, fp16, int8"
    )
    parser.add_argument("--yolo-data", default="coco8.yaml", help="what its int8 is calibrated on")
    parser.add_argument(
        "--ours", nargs="+", default=["flexdetr_nano"], help="presets, checkpoints or artifacts"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="of our presets and checkpoints: auto, fp32 or bf16; artifacts have theirs",
    )
    parser.add_argument("--images", type=Path)
    parser.add_argument("--image-size", type=int, default=640, help="of the peer's models")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3, help="passes over the pictures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        paths = pictures(arguments.images, scratch)
        turn = iter(range(10**9))
        peers: dict[str, Peer] = {}
        calls: dict[str, Callable[[], object]] = {}
        said: dict[str, list[float]] = {}

        def asking(name: str, peer: Peer) -> Callable[[], object]:
            return lambda: said[name].append(peer.predict(paths[next(turn) % len(paths)])[0])

        for model in arguments.yolo:
            for precision in arguments.yolo_precision:
                name = f"{model}, {precision}"
                folder = scratch / name.replace("/", "_")
                folder.mkdir()
                given = str(Path(model).resolve()) if Path(model).exists() else model
                peers[name] = Peer(
                    arguments.peer,
                    given,
                    precision,
                    arguments.image_size,
                    arguments.yolo_data,
                    arguments.threads,
                    folder,
                )
                said[name] = []
                calls[name] = asking(name, peers[name])
        for file in arguments.ours:
            detector = open_detector(file, threads=arguments.threads, runtime="auto")
            options = {}
            if not hasattr(detector, "artifact"):
                detector.runtime = "openvino"  # presets and checkpoints too, as the peer's
                options["precision"] = arguments.precision
            calls[file] = lambda one=detector, options=options: one.predict(
                paths[next(turn) % len(paths)], **options
            )
        for call in calls.values():  # exports and compiles, not counted
            call()
        for values in said.values():
            values.clear()
        seconds = alternate(calls, rounds=arguments.rounds * len(paths))
        for peer in peers.values():
            peer.close()
        # The peer's own clock: without the pipe between the processes.
        seconds |= {name: values[-len(seconds[name]) :] for name, values in said.items()}
    best = min(median(seconds[name]) for name in peers)
    print(machine())
    print(
        f"{len(paths)} pictures, {arguments.threads} threads, file to boxes, medians of {arguments.rounds} passes"
    )
    print("| who | ms | p90 ms | times the peer's best |\n|---|---|---|---|")
    for name, values in seconds.items():
        middle = median(values)
        print(
            f"| {name} | {1e3 * middle:.1f} | {1e3 * np.percentile(values, 90):.1f} | {middle / best:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
