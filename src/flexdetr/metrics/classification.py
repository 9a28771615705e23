"""How often a classifier is right: top-1, top-5, and each class's own recall and precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.metrics.flat_arrays import DetectionsError, FoundByImage, image_rows
from flexdetr.runtime.computation import Computation

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.data.dataset import Record


@dataclass(frozen=True)
class OneClass:
    """One class's scores, in [0, 1]; nan if there is nothing to count.

    Attributes:
        recall: share of its pictures that are taken for it (its top-1).
        precision: share of the pictures that are taken for it which show it.
        f1: harmonic mean of both.
        top5: share of its pictures for which it is among the best five.
        num_images: its pictures.
    """

    recall: float
    precision: float
    f1: float
    top5: float
    num_images: int

    def to_json(self) -> dict[str, Any]:
        """The numbers by name; None for nan."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ClassMetrics:
    """What a classifier's answers are worth.

    Attributes:
        top1: share of the pictures whose most probable class is the right one; nan without pictures.
        top5: share of those whose right class is among the best five.
        balanced: mean of the classes' recalls: each class counts the same, however many pictures it has.
        per_class: each class's own scores, by name.
        computation: what computed the answers, where that is known.
    """

    measures: ClassVar[tuple[str, str]] = ("top-1", "top-5")

    top1: float
    top5: float
    balanced: float
    per_class: dict[str, OneClass]
    computation: Computation | None = None

    @property
    def pair(self) -> tuple[float, float]:
        """Top-1 and top-5."""
        return self.top1, self.top5

    @property
    def learned(self) -> float:
        """Top-1."""
        return self.top1

    def numbers(self) -> dict[str, float]:
        """Numbers over all classes."""
        return {"top1": self.top1, "top5": self.top5, "balanced": self.balanced}

    def row(self) -> dict[str, float]:
        """Columns of ``metrics.csv``."""
        return {"top1": self.top1, "top5": self.top5}

    def tables(self) -> list[tuple[list[str], list[Sequence[object]]]]:
        """The numbers over all classes, and each class's own."""
        names = ["class", "recall", "precision", "F1", "top-5", "pictures"]
        rows: list[Sequence[object]] = [
            (name, one.recall, one.precision, one.f1, one.top5, one.num_images)
            for name, one in self.per_class.items()
        ]
        return [(["metric", "value"], [*self.numbers().items()]), (names, rows)]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; None for nan."""
        how = {} if self.computation is None else {"computation": self.computation.to_json()}
        numbers = {name: _plain(value) for name, value in self.numbers().items()}
        return {**numbers, "per_class": {name: one.to_json() for name, one in self.per_class.items()}, **how}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ClassMetrics:
        """The inverse of ``to_json``; other keys are left out."""
        per_class = {
            name: OneClass(**{key: _number(value) for key, value in row.items()})
            for name, row in content["per_class"].items()
        }
        top1, top5, balanced = (_number(content[name]) for name in ("top1", "top5", "balanced"))
        return cls(top1, top5, balanced, per_class)


class Answers(NamedTuple):
    """Pictures and what they were taken for, in the order of the records.

    Attributes:
        truth: (N,) head indices.
        ranked: (N, K) head indices, most probable first; -1 where fewer were answered.
        scores: (N,) of the most probable class.
    """

    truth: NDArray[np.int64]
    ranked: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the most probable class is the right one."""
        return np.asarray(self.ranked[:, 0] == self.truth, dtype=np.bool_)


def answers_of(records: Sequence[Record], found: FoundByImage, classes: Classes) -> Answers:
    """What each labelled picture was taken for.

    ``found`` has (boxes, scores, head indices) by image id, best first.

    Raises:
        DetectionsError: if scores hold a NaN, an image is unknown or occurs twice, or one has no answer.
    """
    image_rows([record.image_id for record in records])
    depth = min(5, len(classes))
    ranked, scores = np.full((len(records), depth), -1, np.int64), np.zeros(len(records))
    for row, record in enumerate(records):
        if record.image_id not in found:
            raise DetectionsError(f"image {record.image_id!r} has no answer")
        _, own, labels = found[record.image_id]
        if not len(own) or np.isnan(own).any():
            raise DetectionsError(
                f"the answer for image {record.image_id!r} holds a NaN or nothing: the classifier's weights are "
                "not finite, or the precision is too low for them"
            )
        order = np.argsort(-np.asarray(own, np.float64), kind="stable")[:depth]
        ranked[row, : len(order)] = np.asarray(labels)[order]
        scores[row] = own[order[0]]
    truth = np.array([int(record.labels[0]) for record in records], np.int64)
    return Answers(truth, ranked, scores)


def evaluate(records: Sequence[Record], found: FoundByImage, classes: Classes) -> ClassMetrics:
    """Score a classifier's answers; see ``answers_of``."""
    told = answers_of(records, found, classes)
    among = (told.ranked == told.truth[:, None]).any(1)
    per_class = {}
    for index, name in enumerate(classes.names):
        mine, taken = told.truth == index, told.ranked[:, 0] == index
        recall, precision = _share(told.right[mine]), _share(told.right[taken])
        f1 = 2 * recall * precision / (recall + precision) if recall + precision > 0 else recall * 0.0
        per_class[name] = OneClass(recall, precision, f1, _share(among[mine]), int(mine.sum()))
    recalls = [one.recall for one in per_class.values() if one.num_images]
    return ClassMetrics(
        _share(told.right), _share(among), float(np.mean(recalls)) if recalls else math.nan, per_class
    )


def confusion(told: Answers, num_classes: int) -> NDArray[np.int64]:
    """(C, C) pictures: rows are what they show, columns what they were taken for."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (told.truth, told.ranked[:, 0]), 1)
    return counts


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any) -> Any:  # noqa: ANN401 - an int or a float
    return math.nan if value is None else value
