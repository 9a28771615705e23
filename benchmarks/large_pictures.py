"""Small objects in large pictures, found with tiles and without: AP, AP of small objects, and seconds a picture.

    python benchmarks/large_pictures.py --data /tmp/large --epochs 4
    python benchmarks/large_pictures.py --data /tmp/large --weights /tmp/large/run/best.safetensors

Scenes of 2,560 x 2,560 pixels are drawn with 30 to 60 objects of 18 to 36 pixels, nearly all of which are small as COCO
defines it (below 32 x 32). A detector is trained on tiles of 320 pixels (``data.tiles``), and the same weights are
scored on the held-out scenes twice: shrunk to 320 pixels like any picture, and with tiles of 320 (``--slice 320``).
"""

from __future__ import annotations

import time
from pathlib import Path

import flexdetr
from flexdetr.data.scenes import CLASSES, draw_scenes
from flexdetr.runtime.slicing import Slicing
from flexdetr.sliced import SlicedDetector
from measure import machine, parser_of

SIDE, TILE = 2560, 320
LENGTHS = (18 / SIDE, 36 / SIDE)
OBJECTS = (30, 60)
SCENES = {"train": 24, "val": 2, "test": 10}


def trained(data: Path, model: str, epochs: int, seed: int) -> Path:
    """The weights of a detector that has learned from tiles."""
    detector = flexdetr.Detector(model, classes=CLASSES.names, weights=None, image_size=TILE)
    run = detector.train(
        data,
        out=data / "run",
        epochs=epochs,
        seed=seed,
        data={"tiles": TILE, "tile_whole": False},
    )
    return run.best


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="where the scenes are drawn, or were")
    parser.add_argument("--model", default="yolov8_hgnetv2_b0")
    parser.add_argument("--weights", type=Path, help="score this detector instead of training one")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overlap", type=float, default=0.2)
    asked = parser.parse_args()
    if not (asked.data / "annotations").is_dir():
        draw_scenes(asked.data, **SCENES, size=(SIDE, SIDE), lengths=LENGTHS, objects=OBJECTS)
    began = time.perf_counter()
    weights = asked.weights or trained(asked.data, asked.model, asked.epochs, asked.seed)
    print(f"{machine()}; trained in {time.perf_counter() - began:.0f} s\n")
    detector = flexdetr.Detector.from_checkpoint(weights)
    slicing = Slicing(TILE, overlap=asked.overlap)
    print("| held-out scenes | AP | AP50 | AP of small objects | seconds a picture |\n|---|---|---|---|---|")
    ways = {"whole": detector.evaluate, f"tiles of {TILE}": SlicedDetector(detector, slicing).evaluate}
    for name, evaluate in ways.items():
        began = time.perf_counter()
        scores = evaluate(asked.data, split="test")
        spent = (time.perf_counter() - began) / SCENES["test"]
        print(f"| {name} | {scores.ap:.3f} | {scores.ap50:.3f} | {scores.ap_small:.3f} | {spent:.2f} |")


if __name__ == "__main__":
    main()
