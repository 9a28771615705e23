"""YOLO trained from random weights for some minutes on this CPU, scored by the evaluator that scores FlexDETR.

    python benchmarks/yolo_training.py ../shared/data/bccd --peer /tmp/peer/bin/python --minutes 4 --image-size 192

What ``flexdetr ablate`` does with a budget in minutes and one thread, done by the package ``ultralytics`` (AGPL-3.0),
which is no part of this project: see ``yolo_peer.py`` for its environment. It trains by its documented call with its
own defaults, except for the batch, which is the ablation's (``--batch``), and without evaluations, so that all its time
is training. What its last weights answer on the test split is scored here, from 0.001 up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flexdetr.ablate.intervals import interval
from flexdetr.data.check import usable_records
from flexdetr.data.dataset import Dataset
from flexdetr.data.detect import read
from flexdetr.metrics.coco_map import Metrics, evaluate
from measure import machine
from yolo_peer import environment

# What runs on the other side: the documented calls of the package alone.
_PEER = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the package says goes beside the answers
import torch
from ultralytics import YOLO
name, data, minutes, size, batch, seed, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
YOLO(name + ".yaml").train(
    data=data, time=minutes / 60, imgsz=size, batch=batch, seed=seed, device="cpu", workers=0, pretrained=False,
    plots=False, val=False, project=os.getcwd(), name="run", exist_ok=True,
)
trained = YOLO("run/weights/last.pt")
for line in sys.stdin:
    found = trained.predict(json.loads(line), imgsz=size, conf=0.001, max_det=300, device="cpu", verbose=False)[0].boxes
    print(json.dumps([found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist()]), file=answers, flush=True)
"""


def trained(
    peer: Path, name: str, data: Path, dataset: Dataset, asked: argparse.Namespace, seed: int
) -> tuple[Metrics, float]:
    """The numbers of a training's last weights on the test split, and its seconds."""
    given = [
        name,
        str(data / "data.yaml"),
        asked.minutes,
        asked.image_size,
        asked.batch,
        seed,
        asked.threads,
    ]
    records = usable_records(dataset, "test", skip_bad=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(peer), "-c", _PEER, json.dumps(given)],
            input="".join(json.dumps(str(record.path)) + "\n" for record in records),
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(asked.threads),
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {
        record.image_id: (
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(labels, np.int64),
        )
        for record, (boxes, scores, labels) in zip(records, answers, strict=True)
    }
    return evaluate(records, found, dataset.classes), time.perf_counter() - began


def main() -> None:
    """Print a row for each seed, and the mean with its interval."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="the interpreter of the other environment")
    parser.add_argument("--yolo", default="yolo26n")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    print(f"{machine()}; {asked.threads} threads, {asked.minutes:g} minutes each")
    print(f"| {asked.yolo} on {asked.data.name} | test AP | AP50 | minutes |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / asked.data.name
        convert = ["data", "convert", str(asked.data), str(data), "--to", "yolo", "--skip-bad", "--renumber"]
        subprocess.run([sys.executable, "-m", "flexdetr", *convert], check=True)
        dataset = read(data)
        scores: list[Metrics] = []
        for seed in asked.seeds:
            score, seconds = trained(asked.peer, asked.yolo, data, dataset, asked, seed)
            scores.append(score)
            print(f"| seed {seed} | {score.ap:.3f} | {score.ap50:.3f} | {seconds / 60:.1f} |", flush=True)
    spread, spread50 = interval([one.ap for one in scores]), interval([one.ap50 for one in scores])
    print(f"| mean | {spread.mean:.3f} +- {spread.half:.3f} | {spread50.mean:.3f} +- {spread50.half:.3f} | |")


if __name__ == "__main__":
    main()
