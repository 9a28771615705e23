"""Int8 that keeps its accuracy: quantise, score, and return sensitive parts to float until the loss is allowed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexdetr.data.dataset import Record
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.accuracy import accuracy_in
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.finetune import Tuned
from flexdetr.export.formats import open_written
from flexdetr.export.prepare import DeployForm
from flexdetr.export.quantize import int8_layers
from flexdetr.export.sensitivity import COMPARED, RANGES, Sensitivity, rank
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.parity import Accuracy, Precision

CALIBRATION = 200
MAX_DROP = 0.003
# Each round returns about as many parts as all rounds before together: a round costs a quantisation.
_ROUNDS = (0, 1, 3, 7, 12)


@dataclass(frozen=True)
class Round:
    """One attempt.

    ``kept`` parts stayed in float; ``found`` is what came out, by what it was computed in, float32 first.
    """

    kept: tuple[str, ...]
    found: Mapping[Precision, Accuracy]

    def ap(self, precision: Precision) -> float:
        """COCO's AP; 0 if nothing is found that could be scored."""
        return self.found[precision].ap or 0.0

    def drop(self, whole: Accuracy, precision: Precision) -> float:
        """What the AP loses against the float artifact's; negative where it gains."""
        return (whole.ap or 0.0) - self.ap(precision)


@dataclass(frozen=True)
class Int8:
    """How an artifact was brought to int8.

    Attributes:
        rounds: every attempt.
        chosen: the one that there is.
        whole: what the float artifact finds in float32.
        max_drop: what the AP may lose.
        calibration: the pictures that ranges were measured on.
        layers: convolutions and linear layers in int8, and all of them.
        sensitivity: of the parts, most sensitive first; empty if the first attempt was good enough.
        tuned: how the float model was fine-tuned before, if it was.
    """

    rounds: tuple[Round, ...]
    chosen: Round
    whole: Accuracy
    max_drop: float
    calibration: str
    layers: tuple[int, int]
    sensitivity: tuple[Sensitivity, ...] = ()
    tuned: Tuned | None = None

    @property
    def drop(self) -> float:
        """What the AP loses in float32 around the int8 layers; negative where it gains."""
        return self.chosen.drop(self.whole, "fp32")

    @property
    def passed(self) -> bool:
        """Whether that is allowed."""
        return self.drop <= self.max_drop

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """AP before and after, as rows of the proof."""
        return self.whole, self.chosen.found["fp32"].model_copy(update={"case": "int8"})

    def describe(self) -> dict[str, Any]:
        """For ``metadata.json``."""
        kept = self.chosen.kept
        return {
            "calibration": self.calibration,
            "max_drop": self.max_drop,
            "measure": self.whole.measures[0],
            "drop": round(self.drop, 5),
            "layers": {"int8": self.layers[0], "all": self.layers[1]},
            "float": list(kept),
            **({} if self.tuned is None else {"qat": self.tuned.describe()}),
            "rounds": [
                {
                    "float": list(one.kept),
                    "ap": round(one.ap("fp32"), 5),
                    "drop": round(one.drop(self.whole, "fp32"), 5),
                    **{
                        f"drop_in_{precision}": round(one.drop(self.whole, precision), 5)
                        for precision in one.found
                        if precision != "fp32"
                    },
                }
                for one in self.rounds
            ],
            "sensitivity": [
                {
                    "part": one.part,
                    "layers": one.layers,
                    "distance": round(one.distance, 5),
                    "precision": "float" if one.part in kept else "int8",
                }
                for one in self.sensitivity
            ],
        }


@dataclass(frozen=True)
class Quantising:
    """An artifact on its way to int8.

    Attributes:
        folder: the artifact, written in float32 and proven.
        form: the float32 deploy form that it was written from.
        quantise: (file, form, calibration, parts that stay in float), the writer's.
        describe: brings ``metadata.json`` up to date with the files.
        calibration: pictures to measure ranges on.
        records: labelled pictures to score.
        max_drop: what the AP may lose.
        precisions: what the layers that are not in int8 may be computed in; float32 first.
        announce: told what is being done.
        tune: fine-tunes the float model and puts its file in the place of the first; None leaves it as it is.
    """

    folder: Path
    form: DeployForm
    quantise: Callable[[Path, DeployForm, CalibrationPictures, Sequence[str]], None]
    describe: Callable[[], None]
    calibration: CalibrationPictures
    records: tuple[Record, ...]
    max_drop: float
    precisions: tuple[Precision, ...]
    announce: Callable[[str], None]
    tune: Callable[[], Tuned] | None = None

    def until_accurate(self) -> Int8:
        """Quantise and score; return parts to float and repeat while the AP loses more than it may in any precision.

        Returns:
            How it went. The files in the folder are those of the first attempt that passes in every precision; of
            the first that passes in float32, where none does; else of the last.

        Raises:
            ExportError: if nothing can be scored or quantised.
        """
        detector = open_written(self.folder)
        whole = self._score("fp32").model_copy(update={"case": "float32"})
        if whole.ap is None:
            raise ExportError(
                "int8 is judged by its score, and the labelled pictures hold no object of the model's classes"
            )
        self.announce(f"float32: {whole.measures[0]} {whole.ap:.4f} on {len(self.records)} pictures")
        tuned = None if self.tune is None else self.tune()
        form = self.form if tuned is None else tuned.form
        main = detector.artifact.model_file
        spare, good = (self.folder.with_name(f"{self.folder.name}.{word}") for word in ("float32", "good"))
        shutil.copytree(self.folder, spare)
        ranking: list[Sensitivity] = []
        rounds: list[Round] = []
        chosen: Round | None = None
        try:
            for count in _ROUNDS:
                if count and not ranking:
                    self.announce("comparing what each part loses in int8")
                    ranking = self._rank(form, detector)
                if 2 * count > len(ranking) and count:
                    break
                kept = tuple(one.part for one in ranking[:count])
                rounds.append(self._attempt(spare, main, kept))
                allowed = {one: rounds[-1].drop(whole, one) <= self.max_drop for one in self.precisions}
                if all(allowed.values()):
                    chosen = rounds[-1]
                    break
                if allowed["fp32"] and chosen is None:
                    chosen = rounds[-1]
                    shutil.copytree(self.folder, good)
            if chosen is not None and chosen is not rounds[-1]:
                self._restore(good)
                self.describe()
        finally:
            shutil.rmtree(spare, ignore_errors=True)
            shutil.rmtree(good, ignore_errors=True)
        chosen = rounds[-1] if chosen is None else chosen
        return Int8(
            tuple(rounds),
            chosen,
            whole,
            self.max_drop,
            self.calibration.source,
            (len(int8_layers(self.form, chosen.kept)), _layers(self.form)),
            tuple(ranking),
            tuned,
        )

    def _attempt(self, spare: Path, main: Path, kept: tuple[str, ...]) -> Round:
        self._restore(spare)
        self.announce(
            f"measuring ranges on {self.calibration.source}"
            + (f"; in float: {', '.join(kept)}" if kept else "")
        )
        self.quantise(main, self.form, self.calibration, kept)
        self.describe()
        self.announce("scoring")
        found = {precision: self._score(precision) for precision in self.precisions}
        if found["fp32"].ap is None:
            raise ExportError("the int8 graph finds nothing that could be scored")
        measure = found["fp32"].measures[0]
        self.announce(
            "int8: " + ", ".join(f"{measure} {one.ap or 0:.4f} in {name}" for name, one in found.items())
        )
        return Round(kept, found)

    def _restore(self, folder: Path) -> None:
        for file in folder.iterdir():
            shutil.copy(file, self.folder)

    def _score(self, precision: Precision) -> Accuracy:
        classes = open_artifact(self.folder, verify=False).classes
        return accuracy_in(precision, self.folder, classes, self.records)

    def _rank(self, form: DeployForm, detector: ArtifactDetector) -> list[Sensitivity]:
        few = self.calibration.records[:: max(1, len(self.calibration) // RANGES)][:RANGES]
        pictures = replace(self.calibration, records=self.records[:COMPARED])
        return rank(
            form,
            replace(self.calibration, records=few),
            pictures,
            detector.artifact.read_answers,
        )


def _layers(form: DeployForm) -> int:
    from torch import nn

    return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in form.detector.modules())
