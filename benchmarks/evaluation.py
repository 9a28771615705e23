"""Time of the COCO metrics on 5,000 synthetic images with 300 detections each; --beside times faster-coco-eval too."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record, to_coco
from flexdetr.metrics.coco_map import evaluate
from measure import alternate, machine, median, peak_memory_mib


def scene(generator: np.random.Generator, image_id: int, classes: int, found: int) -> tuple[Record, tuple]:
    """A record of up to fifteen objects, and detections that are half noisy copies of them."""
    count = int(generator.integers(0, 16))
    corner = generator.random((count, 2)) * 400
    boxes = np.concatenate([corner, corner + 10 + generator.random((count, 2)) * 200], 1).astype(np.float32)
    labels = generator.integers(0, classes, count)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    record = Record(Path(f"{image_id}.jpg"), image_id, 640, 640, boxes, labels, np.zeros(count, bool), areas)
    corner = generator.random((found, 2)) * 400
    guesses = np.concatenate([corner, corner + 10 + generator.random((found, 2)) * 200], 1).astype(np.float32)
    guess_labels = generator.integers(0, classes, found)
    if count:
        copies = generator.integers(0, count, found // 2)
        guesses[: found // 2] = boxes[copies] + generator.normal(0, 6, (found // 2, 4))
        guess_labels[: found // 2] = labels[copies]
    return record, (guesses, generator.random(found).astype(np.float32), guess_labels)


def beside(records: list[Record], found: dict, classes: Classes) -> object:
    """faster-coco-eval on the same detections, handed over as the array that it takes."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(to_coco(tuple(records), classes))
    rows = [
        np.column_stack(
            [np.full(len(scores), image), boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, labels]
        )
        for image, (boxes, scores, labels) in found.items()
    ]
    scorer = COCOeval_faster(
        truth, truth.loadRes(np.concatenate(rows)), "bbox", print_function=lambda *_: None
    )
    scorer.evaluate()
    scorer.accumulate()
    return scorer


def main() -> None:
    """Print the median time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--found", type=int, default=300)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", action="store_true", help="time faster-coco-eval on the same arrays")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    rows = [scene(generator, i, arguments.classes, arguments.found) for i in range(arguments.images)]
    records = [record for record, _ in rows]
    found = {record.image_id: detections for record, detections in rows}
    classes = Classes.of(f"class {index}" for index in range(arguments.classes))
    subjects: dict[str, Callable[[], object]] = {"flexdetr": lambda: evaluate(records, found, classes)}
    if arguments.beside:
        subjects["faster-coco-eval"] = lambda: beside(records, found, classes)
    seconds = alternate(subjects, rounds=arguments.rounds, warmup=0)
    print(machine())
    print(f"{arguments.images} images, {arguments.found} detections each, {arguments.classes} classes")
    for name, times in seconds.items():
        print(f"{name}: {median(times):.2f} s (median of {arguments.rounds})")
    print(f"peak memory of the process: {peak_memory_mib():.0f} MiB")


if __name__ == "__main__":
    main()
