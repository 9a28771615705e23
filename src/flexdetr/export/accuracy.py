"""What an export costs: AP and agreement of the whole model, of the part that is exported, and of the artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.data.record_pixels import read_record
from flexdetr.export.formats import open_written
from flexdetr.export.reference import Pictures, Reference
from flexdetr.model.fuse import fuse
from flexdetr.model.size import measure_module
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.drift import floors, pair
from flexdetr.runtime.parity import Accuracy, Precision, Tolerance, finite
from flexdetr.tasks import Score, task

Predict = Callable[[NDArray[np.uint8]], Detections]


def accuracies(folder: Path, reference: Reference, pictures: Pictures) -> tuple[Accuracy, ...]:
    """A row for the whole model where less of it is exported, one for what is exported, one for the artifact.

    Without labels there is no AP, only the agreement with the whole model.
    """
    head = reference.model.head
    depth, count = reference.decoder_layers or head.eval_layers, reference.queries or head.queries
    less = (depth, count) != (head.eval_layers, head.queries)
    if not less and not pictures.records:
        return ()
    artifact = open_written(folder)
    whole = replace(reference, decoder_layers=None, queries=None)
    cases: list[tuple[str, Predict, int, int]] = [
        (f"PyTorch, {depth} layers, {count} queries", reference.predict, depth, count),
        ("artifact", lambda image: artifact.predict(image, 0.0), depth, count),
    ]
    if less:
        size = (head.eval_layers, head.queries)
        cases.insert(0, (f"PyTorch, {size[0]} layers, {size[1]} queries", whole.predict, *size))
    expected = [whole.predict(image) for image in pictures.images] if less else []
    rows = []
    for name, predict, layers, queries in cases:
        rows.append(
            Accuracy(
                case=name,
                pictures=len(pictures.records) or len(pictures.images),
                **score_of(predict, pictures.records, reference.classes, artifact.metadata.task),
                agreement=_agreement(expected, [predict(image) for image in pictures.images])
                if less
                else None,
                gflops=_gflops(reference, layers, queries) if less else None,
            )
        )
    return tuple(rows)


def accuracy_in(precision: Precision, folder: Path, classes: Classes, records: Sequence[Record]) -> Accuracy:
    """What an artifact finds in labelled pictures in a precision that its runtime may choose."""
    artifact = open_written(folder, precision)
    scored = score_of(lambda image: artifact.predict(image, 0.0), records, classes, artifact.metadata.task)
    return Accuracy(case=f"artifact in {precision}", pictures=len(records), **scored)


def score_of(predict: Predict, records: Sequence[Record], classes: Classes, kind: str) -> dict[str, Any]:
    """What something finds in labelled pictures, as fields of ``Accuracy``; None if nothing counts."""
    if not records:
        return {"ap": None, "ap50": None}
    found = {}
    for record in records:
        one = predict(read_record(record))
        found[record.image_id] = (one.boxes_xyxy, one.scores, one.indices)
    score: Score = task(kind).score(records, found, classes)
    first, second = score.pair
    return {"measures": score.measures, "ap": finite(first), "ap50": finite(second)}


def _agreement(expected: Sequence[Detections], answers: Sequence[Detections]) -> float | None:
    """The share of the expected detections that are found in the same place with the same class."""
    lowest = floors(expected, Tolerance().floor)
    pairs = [pair(one, other, floor) for one, other, floor in zip(expected, answers, lowest, strict=True)]
    wanted = sum(int((one.scores > floor).sum()) for one, floor in zip(expected, lowest, strict=True))
    same = sum(
        int(((one.scores[two.first] > floor) & ~two.flipped).sum())
        for one, two, floor in zip(expected, pairs, lowest, strict=True)
    )
    return same / wanted if wanted else None


def _gflops(reference: Reference, layers: int, queries: int) -> float:
    form = fuse(reference.model, decoder_layers=layers)
    form.get_submodule("head").queries = queries  # type: ignore[assignment]  # a plain number
    return round(measure_module(form, reference.size, reference.model.channels).gflops, 3)
