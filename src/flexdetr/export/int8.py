"""Int8 that keeps its accuracy: quantise, score, and return sensitive parts to float until the loss is allowed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexdetr.data.dataset import Record
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.accuracy import average_precision
from flexdetr.export.calibration import Calibration
from flexdetr.export.errors import ExportError
from flexdetr.export.finetune import Tuned
from flexdetr.export.prepare import DeployForm
from flexdetr.export.quantize import int8_layers
from flexdetr.export.sensitivity import COMPARED, RANGES, Sensitivity, rank
from flexdetr.runtime.parity import Accuracy

CALIBRATION = 200
MAX_DROP = 0.003
# Each round returns about as many parts as all rounds before together: a round costs a quantisation.
_ROUNDS = (0, 1, 3, 7, 12)


@dataclass(frozen=True)
class Round:
    """One attempt.

    Attributes:
        kept: parts that stayed in float.
        ap: COCO's AP of what came out.
        ap50: at IoU 0.50.
    """

    kept: tuple[str, ...]
    ap: float
    ap50: float | None


@dataclass(frozen=True)
class Int8:
    """How an artifact was brought to int8.

    Attributes:
        rounds: every attempt; the last one is what there is.
        float_ap: AP of the float32 artifact on the same pictures.
        float_ap50: at IoU 0.50.
        pictures: labelled pictures that were scored.
        max_drop: what the AP may lose.
        calibration: the pictures that ranges were measured on.
        layers: convolutions and linear layers in int8, and all of them.
        sensitivity: of the parts, most sensitive first; empty where the first attempt was good enough.
        tuned: how the float model was fine-tuned before, if it was.
    """

    rounds: tuple[Round, ...]
    float_ap: float
    float_ap50: float | None
    pictures: int
    max_drop: float
    calibration: str
    layers: tuple[int, int]
    sensitivity: tuple[Sensitivity, ...] = ()
    tuned: Tuned | None = None

    @property
    def drop(self) -> float:
        """What the AP loses; negative where it gains."""
        return self.float_ap - self.rounds[-1].ap

    @property
    def passed(self) -> bool:
        """Whether that is allowed."""
        return self.drop <= self.max_drop

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """AP before and after, as rows of the proof."""
        last = self.rounds[-1]
        return (
            Accuracy(case="float32", pictures=self.pictures, ap=self.float_ap, ap50=self.float_ap50),
            Accuracy(case="int8", pictures=self.pictures, ap=last.ap, ap50=last.ap50),
        )

    def describe(self) -> dict[str, Any]:
        """For ``metadata.json``."""
        kept = self.rounds[-1].kept
        return {
            "calibration": self.calibration,
            "max_drop": self.max_drop,
            "drop": round(self.drop, 5),
            "layers": {"int8": self.layers[0], "all": self.layers[1]},
            "float": list(kept),
            **({} if self.tuned is None else {"qat": self.tuned.describe()}),
            "rounds": [
                {"float": list(one.kept), "ap": round(one.ap, 5), "drop": round(self.float_ap - one.ap, 5)}
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
        quantise: (file, calibration, parts that stay in float), the writer's.
        describe: brings ``metadata.json`` up to date with the files.
        calibration: pictures to measure ranges on.
        records: labelled pictures to score.
        max_drop: what the AP may lose.
        say: told what is being done.
        tune: fine-tunes the float model and puts its file in the place of the first; None leaves it as it is.
    """

    folder: Path
    form: DeployForm
    quantise: Callable[[Path, Calibration, Sequence[str]], None]
    describe: Callable[[], None]
    calibration: Calibration
    records: tuple[Record, ...]
    max_drop: float
    say: Callable[[str], None]
    tune: Callable[[], Tuned] | None = None

    def until_accurate(self) -> Int8:
        """Quantise and score; return parts to float and repeat while the AP loses more than it may.

        Returns:
            How it went; the last attempt's files are in the folder, whether it passed or not.

        Raises:
            ExportError: where nothing can be scored or quantised.
        """
        detector = ArtifactDetector(self.folder, precision="f32", cache=False, verify=False)
        whole, whole50 = average_precision(
            lambda image: detector.predict(image, 0.0), self.records, detector.classes
        )
        if whole is None:
            raise ExportError(
                "int8 is judged by its AP, and the labelled pictures hold no object of the model's classes"
            )
        self.say(f"float32: AP {whole:.4f} on {len(self.records)} pictures")
        tuned = None if self.tune is None else self.tune()
        form = self.form if tuned is None else tuned.form
        main = detector.artifact.model_file
        spare = self.folder.with_name(self.folder.name + ".float32")
        shutil.copytree(self.folder, spare)
        ranking: list[Sensitivity] = []
        rounds: list[Round] = []
        try:
            for count in _ROUNDS:
                if count and not ranking:
                    self.say("comparing what each part loses in int8")
                    ranking = self._rank(form, detector)
                if 2 * count > len(ranking) and count:
                    break
                kept = tuple(one.part for one in ranking[:count])
                rounds.append(self._attempt(spare, main, kept))
                if whole - rounds[-1].ap <= self.max_drop:
                    break
        finally:
            shutil.rmtree(spare, ignore_errors=True)
        return Int8(
            tuple(rounds),
            whole,
            whole50,
            len(self.records),
            self.max_drop,
            self.calibration.source,
            (len(int8_layers(self.form, rounds[-1].kept)), _layers(self.form)),
            tuple(ranking),
            tuned,
        )

    def _attempt(self, spare: Path, main: Path, kept: tuple[str, ...]) -> Round:
        for file in spare.iterdir():
            shutil.copy(file, self.folder)
        self.say(
            f"measuring ranges on {self.calibration.source}"
            + (f"; in float: {', '.join(kept)}" if kept else "")
        )
        self.quantise(main, self.calibration, kept)
        self.describe()
        self.say("scoring")
        detector = ArtifactDetector(self.folder, precision="f32", cache=False, verify=False)
        ap, ap50 = average_precision(
            lambda image: detector.predict(image, 0.0), self.records, detector.classes
        )
        if ap is None:
            raise ExportError("the int8 graph finds nothing that could be scored")
        self.say(f"int8: AP {ap:.4f}")
        return Round(kept, ap, ap50)

    def _rank(self, form: DeployForm, detector: ArtifactDetector) -> list[Sensitivity]:
        few = self.calibration.records[:: max(1, len(self.calibration) // RANGES)][:RANGES]
        pictures = replace(self.calibration, records=self.records[:COMPARED])
        return rank(
            form,
            replace(self.calibration, records=few),
            pictures,
            detector.read_answers,
        )


def _layers(form: DeployForm) -> int:
    from torch import nn

    return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in form.detector.modules())
