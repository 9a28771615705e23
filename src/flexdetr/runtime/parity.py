"""The proof that travels with an artifact: how far it was from the PyTorch model when it was made."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["fp32", "bf16", "fp16"]
Asked = Literal["auto", "fp32", "bf16", "fp16"]  # "auto" leaves the choice to the runtime


class Tolerance(BaseModel):
    """The largest drift that passes.

    Attributes:
        score: of a detection's score.
        box: of a box side, in pixels of the original picture.
        floor: detections of a higher score are compared; the others are nothing that anyone would look at.
        share: of the detections, how many may be missing, extra, of another class or further off. Eight bits move
            some detections over any threshold; there the AP decides.
    """

    model_config = ConfigDict(frozen=True)

    score: float = 1e-3
    box: float = 0.5
    floor: float = 0.3
    share: float = 0.0


class Drift(BaseModel):
    """How far an artifact's detections were from the PyTorch model's, over some pictures.

    Detections are paired as sets, one to one, by class and place: equal objects in another order are no drift.

    Attributes:
        case: what was run, like "one by one" or "batches of 4".
        pictures: how many.
        compared: detections that should be found.
        floor: their lowest score; below the tolerance's floor where nothing scored higher.
        missing: of these, how many the artifact did not find.
        extra: how many it found that should not be there.
        flips: how many it found in the same place as another class.
        score: largest difference of a score.
        box: largest difference of a box side, in pixels of the original picture.
        mean_score: mean difference.
        mean_box: mean difference.
        passed: whether all this is within the tolerance.
    """

    model_config = ConfigDict(frozen=True)

    case: str
    pictures: int
    compared: int
    floor: float
    missing: int = 0
    extra: int = 0
    flips: int = 0
    score: float = 0.0
    box: float = 0.0
    mean_score: float = 0.0
    mean_box: float = 0.0
    passed: bool = True

    def describe(self) -> str:
        """What is off, in words."""
        return (
            f"of {self.compared} detections in {self.pictures} pictures {self.missing} are missing, {self.extra} are "
            f"extra and {self.flips} of another class; scores drift by up to {self.score:.2g}, boxes by "
            f"{self.box:.2g} px"
        )


class Accuracy(BaseModel):
    """What a detector finds, for the trade between accuracy and work.

    Attributes:
        case: what was scored.
        pictures: how many.
        measures: what the two numbers are.
        ap: COCO's AP, in [0, 1], or the first number of another task; None without labels or where nothing counts.
        ap50: at IoU 0.50, or the second.
        agreement: share of the whole model's detections that it finds as well, where less than that is exported.
        gflops: work for one picture, in that case.
    """

    model_config = ConfigDict(frozen=True)

    case: str
    pictures: int
    measures: tuple[str, str] = ("AP", "AP50")
    ap: float | None
    ap50: float | None
    agreement: float | None = None
    gflops: float | None = None


class Parity(BaseModel):
    """The proof.

    Attributes:
        passed: whether every drift is within the tolerance and the classes are the model's.
        tolerance: what passes.
        runtime: what ran the artifact.
        features: of the CPU, see ``flexdetr.runtime.cpu.cpu_features``.
        pictures: which pictures were used.
        drifts: a row for each way of running.
        accuracies: AP of the PyTorch model and of the artifact, with labelled pictures.
        notes: what was done on the way, like layers kept in float32.
        culprit: where it goes wrong, if it does.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    tolerance: Tolerance
    runtime: str
    features: tuple[str, ...] = ()
    pictures: str
    drifts: tuple[Drift, ...]
    accuracies: tuple[Accuracy, ...] = ()
    notes: tuple[str, ...] = ()
    culprit: str | None = None

    @property
    def score(self) -> float:
        """The largest drift of a score."""
        return max((drift.score for drift in self.drifts), default=0.0)

    @property
    def box(self) -> float:
        """The largest drift of a box side, in pixels."""
        return max((drift.box for drift in self.drifts), default=0.0)

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Column names and rows for a person to read."""
        columns = [
            "case",
            "pictures",
            "compared",
            "missing",
            "extra",
            "flips",
            "score drift",
            "box drift px",
            "ok",
        ]
        rows: list[list[object]] = [
            [
                drift.case,
                drift.pictures,
                drift.compared,
                drift.missing,
                drift.extra,
                drift.flips,
                f"{drift.score:.1e}",
                f"{drift.box:.1e}",
                drift.passed,
            ]
            for drift in self.drifts
        ]
        return columns, rows

    def accuracy_table(self) -> tuple[list[str], list[list[object]]]:
        """Column names and rows of the accuracies."""
        measures = next((row.measures for row in self.accuracies), ("AP", "AP50"))
        columns = ["accuracy", "pictures", *measures, "agreement", "GFLOPs"]
        return columns, [
            [row.case, row.pictures, row.ap, row.ap50, row.agreement, row.gflops] for row in self.accuracies
        ]


class Proven(BaseModel):
    """What a proof in one arithmetic gave. It holds where it was made: for this runtime on a CPU of these features.

    Attributes:
        passed: whether every drift is within the tolerance, and the AP where it was taken.
        runtime: what ran the artifact, with its version.
        features: of the CPU, see ``flexdetr.runtime.cpu.cpu_features``.
        tolerance: what passes.
        drifts: a row for each way of running.
        accuracy: AP of the artifact in this precision, with labelled pictures.
        reason: why it did not pass.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    runtime: str
    features: tuple[str, ...]
    tolerance: Tolerance
    drifts: tuple[Drift, ...]
    accuracy: Accuracy | None = None
    reason: str | None = None


def finite(value: float) -> float | None:
    """A number for JSON, which has no nan."""
    return value if math.isfinite(value) else None
