"""COCO's numbers of what a detector answered, picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.data.images import ImageError
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.sources import Picture, Unreadable
from flexdetr.tasks import DEFAULT, Score, task

if TYPE_CHECKING:
    from flexdetr.metrics.flat_arrays import FoundByImage


def cut_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a training cut its validation split off, so that the same images are read again: options of ``detect.read``.

    The configuration is nested values; what it does not say is left to ``read``.
    """
    given = {"val_fraction": config.get("data", {}).get("val_fraction"), "seed": config.get("seed")}
    return {key: value for key, value in given.items() if value is not None}


def score_answers(
    answers: Iterable[tuple[Picture, Detections] | Unreadable],
    records: Sequence[Record],
    classes: Classes,
    progress: Callable[[int, int], None] | None = None,
    kind: str = DEFAULT,
) -> tuple[Score, FoundByImage]:
    """Score what ``predict_many`` gave for a split.

    ``answers`` are one for each record, in their order, of every score.

    Returns:
        The numbers, and by image id what they were counted from: boxes_xyxy, scores and head indices.

    Raises:
        ImageError: if a picture could not be read.
    """
    found = {}
    for record, answer in zip(records, answers, strict=True):
        if isinstance(answer, Unreadable):
            raise ImageError(answer.reason)
        boxes = answer[1]
        found[record.image_id] = (boxes.boxes_xyxy, boxes.scores, boxes.indices)
        if progress is not None:
            progress(len(found), len(records))
    return task(kind).score(records, found, classes), found
