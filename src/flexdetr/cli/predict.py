"""The verb ``predict``: annotated pictures, a COCO document and a CSV file."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.evaluate import (
    Device,
    File,
    Iou,
    Layers,
    MaxDetections,
    Precision,
    Queries,
    Runtime,
    Score,
    inference,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexdetr.classes import Classes
    from flexdetr.runtime.detections import Detections
    from flexdetr.runtime.sources import Item
    from flexdetr.runtime.thresholds import Threshold

# Pictures whose gain of a part of a second each is more than the seconds that a conversion takes.
_WORTH_CONVERTING = 100
_KEPT_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def predict(
    file: File,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Images, folders, globs, videos, a camera's number, or - (stdin)."
        ),
    ],
    threshold: Annotated[
        str,
        typer.Option(metavar="T|auto", help="Lowest score to keep; auto: each class's best one, from FILE."),
    ] = "0.4",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("runs/predict"),
    device: Device = "auto",
    precision: Precision = None,
    runtime: Runtime = "auto",
    decoder_layers: Layers = None,
    queries: Queries = None,
    score: Score = None,
    iou: Iou = None,
    max_detections: MaxDetections = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Find objects: annotated pictures, detections.json (COCO) and detections.csv."""
    from flexdetr.api import load
    from flexdetr.runtime.sources import Unreadable, find

    limit = _limit(threshold)
    items = find(sources)
    if any(
        isinstance(item.content, Path) and item.content.parent.resolve() == out.resolve() for item in items
    ):
        raise answers.UsageError(f"--out {out} holds the pictures themselves, which would be overwritten")
    detector = load(file, runtime=runtime, **inference(decoder_layers, queries, score, iou, max_detections))
    options: dict[str, Any] = {} if precision is None else {"precision": precision}
    how = detector.computation(device=device, items=items, **options)
    answers.note(f"computing with {how.describe()}")
    if how.runtime.startswith("PyTorch") and how.device == "cpu" and _many(items):
        answers.note("for so many pictures --runtime openvino is faster: it converts the checkpoint first")
    results = Results(out, detector.classes)
    interrupted = False
    try:
        with answers.counting("predicting") as show_count:
            answered = detector.predict_many(items, limit, device=device, **options)
            for number, answer in enumerate(answered, start=1):
                if isinstance(answer, Unreadable):
                    answers.note(f"Error: {answer.reason}")
                    results.failed.append({"file": answer.name, "error": answer.reason})
                else:
                    picture, found = answer
                    results.add(picture.name, picture.image, found)
                show_count(number, max(number, len(items)))  # a film gives more pictures than one
    except KeyboardInterrupt:  # the only end that a camera has
        interrupted = True
    results.write()
    if as_json:
        answers.show_json(
            {
                "computation": how.to_json(),
                "images": results.images,
                "failed": results.failed,
                "out": str(out),
            }
        )
    else:
        answers.show_table(
            ["file", "objects", "found"],
            [(image["file"], len(image["objects"]), _summary(image["objects"])) for image in results.images],
        )
        answers.show(f"pictures, detections.json and detections.csv: {out}")
    if results.failed or interrupted:
        raise typer.Exit(130 if interrupted else 1)


def _many(items: Sequence[Item]) -> bool:
    """Whether there are so many pictures that converting a checkpoint for OpenVINO repays."""
    from flexdetr.runtime.sources import is_film

    return len(items) >= _WORTH_CONVERTING or any(is_film(item) for item in items)


def _limit(text: str) -> Threshold:
    """A score, or "auto".

    Raises:
        UsageError: where it is neither.
    """
    if text == "auto":
        return "auto"
    try:
        limit = float(text)
    except ValueError:
        limit = -1
    if not 0 <= limit <= 1:
        raise answers.UsageError(f"--threshold takes a score between 0 and 1, or auto; got {text!r}")
    return limit


def _summary(objects: list[dict[str, Any]]) -> str:
    counts = Counter(found["name"] for found in objects)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


@dataclass
class Results:
    """What was found so far, and where it goes.

    Attributes:
        out: folder of the results.
        classes: of the detector.
        images: by image: file, annotated copy, size and objects.
        failed: files that could not be read, with the reason.
    """

    out: Path
    classes: Classes
    images: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    _found: list[Detections] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def add(self, name: str, image: NDArray[np.uint8], found: Detections) -> None:
        """Draw what was found, and remember it.

        Args:
            name: the picture's file; of a video, with the number of the frame behind a ``#``.
            image: (H, W, 3) uint8 RGB.
            found: its objects.
        """
        from PIL import Image

        from flexdetr.draw import draw_detections

        self.out.mkdir(parents=True, exist_ok=True)
        picture = self.out / self._free_name(name)
        Image.fromarray(draw_detections(image, found)).save(picture, quality=92)
        self._found.append(found)
        self.images.append(
            {
                "file": name,
                "picture": str(picture),
                "size": [image.shape[0], image.shape[1]],
                "objects": found.to_json(),
            }
        )

    def write(self) -> None:
        """``detections.json``, a COCO document with scores, and ``detections.csv``, a row for each object."""
        from flexdetr.runtime.detections import CSV_HEADER

        self.out.mkdir(parents=True, exist_ok=True)
        rows = enumerate(zip(self.images, self._found, strict=True), start=1)
        annotations = [
            {**row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for number, (_, found) in rows
            for row in found.to_coco(image_id=number)
        ]
        document = {
            "images": [
                {
                    "id": number,
                    "file_name": image["file"],
                    "height": image["size"][0],
                    "width": image["size"][1],
                }
                for number, image in enumerate(self.images, start=1)
            ],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
            "categories": self.classes.to_json(),
        }
        (self.out / "detections.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        with (self.out / "detections.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(CSV_HEADER)
            for image, found in zip(self.images, self._found, strict=True):
                writer.writerows(found.to_csv_rows(image["file"]))

    def _free_name(self, name: str) -> str:
        """A file name that no other picture of this call has: folders may hold pictures of the same name."""
        path = Path(name)
        file, _, frame = path.name.rpartition("#")
        stem, suffix = (f"{Path(file).stem}-{frame}", ".jpg") if file else (path.stem, path.suffix.lower())
        if suffix not in _KEPT_SUFFIXES:
            suffix = ".jpg"
        free, number = f"{stem}{suffix}", 1
        while free.lower() in self._taken:
            number += 1
            free = f"{stem}-{number}{suffix}"
        self._taken.add(free.lower())
        return free
