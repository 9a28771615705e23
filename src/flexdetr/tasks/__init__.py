"""Tasks: what is done with a picture. ``TASKS`` names them; this table imports no torch.

A task differs from another one in four ways: how its data is read, how a training sample is made of it, how answers
are scored, and what a page shows of them. Engine, data, export, runtime and report ask the task for these, by
``task(name)``, and import no row; an architecture test holds that. All other differences belong to the head, whose row
in ``flexdetr.model.heads.HEADS`` says which task it is for: ``Config.task`` is the task of its head.

To add a task:

1. a module here with the functions of the protocol ``Task``, heavy imports inside them, and a row in ``TASKS``;
2. a head with ``task=NAME``, or the head of another task under a name of its own;
3. presets that have this head, and in ``facade`` the class that ``flexdetr.load`` wraps a model of this task in.

Samples of any task are ``Record`` values: a picture with boxes and labels. A picture that has a class as a whole is a
record with one box around all of it. Likewise answers of any task are boxes, scores and labels, best first, so that
exporting, proving and computing them elsewhere is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.config import Config
    from flexdetr.data.batches import BatchPlan, BatchSample
    from flexdetr.data.dataset import Dataset, Record
    from flexdetr.data.kept import RecordImages
    from flexdetr.metrics.flat_arrays import FoundByImage
    from flexdetr.report.make import ReportContent
    from flexdetr.runtime.computation import Computation


@dataclass(frozen=True)
class TaskRow:
    """One task.

    Attributes:
        noun: what does it, like "detector".
        module: keeps the protocol ``Task``; imported when it is used.
        facade: the class for people, as ``package.module:Class`` with a class method ``of(detector)``; empty if they
            get the ``Detector`` or ``ArtifactDetector`` itself.
        look: what a model is shown of a path, a PIL image or an array, as ``package.module:function``; the facade asks
            for it.
        middle: whether ``look`` leaves the square in the middle alone (``runtime.middle``); artifacts tell it to
            clients in other languages.
    """

    noun: str
    module: str
    facade: str = ""
    look: str = "flexdetr.data.images:pixels"
    middle: bool = False


TASKS: Final[Mapping[str, TaskRow]] = {
    "detect": TaskRow("detector", "flexdetr.tasks.detect"),
    "classify": TaskRow(
        "classifier",
        "flexdetr.tasks.classify",
        "flexdetr.classifier:Classifier",
        "flexdetr.data.record_pixels:look_at_middle",
        middle=True,
    ),
    "orientation": TaskRow(
        "page classifier",
        "flexdetr.tasks.orientation",
        "flexdetr.classifier:Classifier",
        "flexdetr.data.record_pixels:look_at_page",
        middle=True,
    ),
}
DEFAULT: Final = "detect"


class Score(Protocol):
    """What a model's answers are worth on labelled pictures; a frozen dataclass.

    Attributes:
        measures: names of the two numbers that are told first; the first of them chooses the best checkpoint.
    """

    measures: ClassVar[tuple[str, str]]

    @property
    def computation(self) -> Computation | None:
        """What computed the answers, where that is known."""
        ...

    @property
    def pair(self) -> tuple[float, float]:
        """The numbers of ``measures``, in [0, 1]; nan if nothing counts."""
        ...

    @property
    def learned(self) -> float:
        """How much of its own training pictures a model knows by heart, in [0, 1]."""
        ...

    def numbers(self) -> dict[str, float]:
        """All numbers over all classes, by name."""
        ...

    def row(self) -> dict[str, float]:
        """Those that stand in a run's ``metrics.csv``."""
        ...

    def tables(self) -> list[tuple[list[str], list[Sequence[object]]]]:
        """Column names and rows for a person to read."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; None for nan."""
        ...


class Samples(Protocol):
    """Makes training batches from plans; lives in the training's process and, as a copy, in each loader process."""

    records: Sequence[Record]
    images: RecordImages

    def make(self, plan: BatchPlan, slot: int, index: int) -> BatchSample:
        """The sample of a record in a place of a planned batch."""
        ...


class Task(Protocol):
    """The functions of a task's module."""

    def read(self, root: str | Path, *, val_fraction: float | None = 0.15, seed: int = 0) -> Dataset:
        """The data set at a place.

        Raises:
            DataError: if it cannot be used; where it is one for another task, with the command for that.
        """
        ...

    def samples(self, records: Sequence[Record], config: Config, seed: int) -> Samples:
        """What makes a run's training samples."""
        ...

    def score(self, records: Sequence[Record], found: FoundByImage, classes: Classes) -> Score:
        """What answers are worth."""
        ...

    def score_of(self, content: Mapping[str, Any]) -> Score:
        """The inverse of ``Score.to_json``."""
        ...

    def write_report(self, path: Path, subject: ReportContent) -> dict[str, float]:
        """Write the page about an evaluation, and give the best threshold of each class; none if there are none."""
        ...


def task(name: str) -> Task:
    """The module of a row of ``TASKS``."""
    return cast("Task", import_module(TASKS[name].module))


def headline(score: Score) -> str:
    """The two numbers that are told first, like "AP 0.512, AP50 0.743"."""
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(score.measures, score.pair, strict=True))
