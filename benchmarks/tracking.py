"""HOTA, MOTA and changes of identity on drawn sequences whose tracks are known, by the metrics of the trackers package.

Objects of six kinds move over a still ground, bounce off its edges and pass in front of each other. What the trackers
are given is either found by a detector (--detector CHECKPOINT), or the true boxes with noise: those of which less than
half is seen are missed, and so is every tenth of the others; sides are off by 3 %, scores fall from 0.9 with
what is hidden, and every fourth frame has a false alarm.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.scene_shapes import SHAPES, Sprite, render
from flexdetr.data.scene_textures import as_image, draw_background
from flexdetr.data.scenes import CLASSES
from flexdetr.runtime.detections import Detections
from flexdetr.tracking import LOWEST, mot_lines, track

_LIGHT = (0.6, 0.8)
_TOO_HIDDEN = 0.25  # of an object that shows less there is nothing to find
_FOUND_FROM = 0.5


class Frame(NamedTuple):
    """A frame with what is true of it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) pixels, around all of each object, hidden or not.
        labels: (N,) indices into ``CLASSES``.
        seen: (N,) share of each object that nothing hides.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.float64]


def sequence(seed: int, *, frames: int, side: int, objects: int) -> Iterator[Frame]:
    """Draw a sequence; object 0 lies on top of all others."""
    rng = np.random.default_rng([seed, 17])
    ground = draw_background(rng, side, side)
    labels = rng.integers(0, len(CLASSES), objects)
    sprites = [
        render(
            SHAPES[CLASSES.names[label]](rng), side * rng.uniform(0.08, 0.13), rng.uniform(0, 6.28), _LIGHT
        )
        for label in labels.tolist()
    ]
    place = np.stack([rng.uniform(0, side - one.alpha.shape[0], 2) for one in sprites])
    step = side * rng.uniform(0.006, 0.016, (objects, 1))
    angle = rng.uniform(0, 2 * np.pi, (objects, 1))
    step = np.concatenate([np.sin(angle), np.cos(angle)], 1) * step
    room = side - np.array([[one.alpha.shape[0]] for one in sprites])
    for _ in range(frames):
        yield _drawn(ground, sprites, np.rint(place).astype(int), labels)
        place = place + step
        step = np.where((place < 0) | (place > room), -step, step)
        place = np.clip(place, 0, room)


def _drawn(
    ground: NDArray[np.float32], sprites: list[Sprite], places: NDArray[np.int64], labels: NDArray[np.int64]
) -> Frame:
    canvas, covered = ground.copy(), np.zeros(ground.shape[1:], bool)
    boxes, seen = [], []
    windows = []
    for sprite, (top, left) in zip(sprites, places.tolist(), strict=True):
        end = sprite.alpha.shape[0]
        window = (slice(top, top + end), slice(left, left + end))
        mask = sprite.alpha > 0.5
        seen.append(float((mask & ~covered[window]).sum() / mask.sum()))
        covered[window] |= mask
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
        windows.append(window)
    for sprite, window in zip(reversed(sprites), reversed(windows), strict=True):
        part = canvas[:, window[0], window[1]]
        part += (sprite.colours - part) * sprite.alpha
    image = np.asarray(as_image(canvas * 255))
    return Frame(image, np.array(boxes, np.float32), labels, np.array(seen))


def noisy(frame: Frame, rng: np.random.Generator) -> Detections:
    """What a detector might find, as the module's docstring says."""
    found = (frame.seen >= _FOUND_FROM) & (rng.random(len(frame.seen)) > 0.1)
    boxes = frame.boxes_xyxy[found]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0, 0.03, boxes.shape).astype(np.float32) * sides
    scores = 0.25 + 0.65 * frame.seen[found] + rng.normal(0, 0.04, len(boxes))
    labels = frame.labels[found]
    height, width = frame.image.shape[:2]
    if rng.random() < 0.25:
        corner = rng.uniform(0, 0.8, 2) * (width, height)
        boxes = np.concatenate([boxes, [[*corner, *(corner + 0.15 * min(height, width))]]])
        scores, labels = np.append(scores, 0.45), np.append(labels, 0)
    return _detections(boxes, scores, labels, (height, width))


def _detections(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], size: tuple[int, int]
) -> Detections:
    order = np.argsort(-scores, kind="stable")
    kept = labels[order].tolist()
    ids, names = [CLASSES.ids[label] for label in kept], [CLASSES.names[label] for label in kept]
    return Detections(boxes[order], scores[order], ids, names, kept, size=size)


def true_lines(frame: Frame, number: int) -> list[str]:
    """A frame of MOTChallenge's truth; a row's last numbers say that it counts, and that its class does."""
    return [
        f"{number},{track_id},{x0:.2f},{y0:.2f},{x1 - x0:.2f},{y1 - y0:.2f},1,1,{share:.3f}"
        for track_id, ((x0, y0, x1, y1), share) in enumerate(
            zip(frame.boxes_xyxy.tolist(), frame.seen.tolist(), strict=True), start=1
        )
        if share >= _TOO_HIDDEN
    ]


def main() -> None:
    """Print a row for each tracker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--detector", metavar="CHECKPOINT", help="trained on drawn scenes, as by flexdetr demo"
    )
    parser.add_argument("--trackers", nargs="+", default=["bytetrack", "ocsort"])
    parser.add_argument("--sequences", type=int, default=5)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--objects", type=int, default=8)
    options = parser.parse_args()
    from trackers.eval import evaluate_mot_sequences

    detector = None
    if options.detector:
        import flexdetr

        detector = flexdetr.load(options.detector)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed in range(options.sequences):
            frames = [*sequence(seed, frames=options.frames, side=options.side, objects=options.objects)]
            truth = [line for number, one in enumerate(frames, 1) for line in true_lines(one, number)]
            _write(root / "truth" / f"{seed}.txt", truth)
            rng = np.random.default_rng([seed, 18])
            found = [
                noisy(one, rng) if detector is None else detector.predict(one.image, LOWEST) for one in frames
            ]
            for name in options.trackers:
                tracked = enumerate(track(found, name), start=1)
                lines = [line for number, one in tracked for line in mot_lines(one, number)]
                _write(root / name / f"{seed}.txt", lines)
        print("| tracker | HOTA | MOTA | IDF1 | identity switches | missed | false | true boxes |")
        print("|---|---|---|---|---|---|---|---|")
        for name in options.trackers:
            wanted = ["CLEAR", "HOTA", "Identity"]
            got = evaluate_mot_sequences(root / "truth", root / name, metrics=wanted).aggregate
            print(
                f"| {name} | {got.HOTA.HOTA:.3f} | {got.CLEAR.MOTA:.3f} | {got.Identity.IDF1:.3f} | "
                f"{got.CLEAR.IDSW} | {got.CLEAR.CLR_FN} | {got.CLEAR.CLR_FP} | "
                f"{got.CLEAR.CLR_TP + got.CLEAR.CLR_FN} |"
            )


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
