"""An artifact in the making: its files, its description, its proof."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch

from flexdetr import __version__
from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.data.dataset import Record
from flexdetr.export.accuracy import accuracies, accuracy_in
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.finetune import Tuned, fine_tune
from flexdetr.export.formats import quantiser_of, writer_of
from flexdetr.export.half import ALWAYS_FLOAT32, beyond_half
from flexdetr.export.int8 import Int8, Quantising
from flexdetr.export.prepare import DeployForm, Options
from flexdetr.export.proof import Proof, compare, prove, prove_in, tolerance_of
from flexdetr.export.reference import Pictures, Reference
from flexdetr.model.detector import DetectionModel
from flexdetr.runtime.artifact import (
    METADATA,
    ArtifactMetadata,
    Input,
    Outputs,
    ReferencePictures,
    Suppression,
    describe_files,
    write_metadata,
)
from flexdetr.runtime.formats import Format
from flexdetr.runtime.middle import SEEN
from flexdetr.runtime.openvino import VERSION, computes_in
from flexdetr.runtime.parity import Accuracy, Parity, Precision, Proven
from flexdetr.runtime.process import prepare as planes_of
from flexdetr.runtime.process import resize
from flexdetr.runtime.trial import REFERENCE, write_reference
from flexdetr.tasks import TASKS
from flexdetr.weights.store import Metadata

# Each retry keeps one more kind of layer in float32; there are not more kinds than this.
RETRIES = 4
# Pictures with which an artifact is tried where it was not proven.
REFERENCES = 4
# What the AP may lose in half precision, where there are enough pictures to tell: of four, one detection is 0.04.
MAX_DROP_HALF, JUDGED = 0.01, 30


class DriftError(ExportError):
    """An artifact that does not do what the model does.

    Attributes:
        parity: how far it was off.
        int8: how it was brought to int8, as ``metadata.json`` has it; None for another precision.
    """

    def __init__(self, message: str, parity: Parity, int8: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.parity = parity
        self.int8 = int8


@dataclass(frozen=True)
class ExportSource:
    """What is exported."""

    model: DetectionModel
    config: Config
    classes: Classes
    metadata: Metadata

    @classmethod
    def of(cls, detector: Any) -> Self:  # noqa: ANN401 - a Detector, which stands above
        """A detector as it is at the moment."""
        return cls(detector.model, detector.config, detector.classes, detector.metadata)

    def apart(self) -> Self:
        """The same detector with a copy of the model, in float32 on the CPU and in evaluation mode.

        What is done to it while it is exported does not reach the model of the caller, which may be in training.
        """
        with torch.inference_mode(False):
            return replace(self, model=copy.deepcopy(self.model).cpu().float().eval())


@dataclass(frozen=True)
class Int8Settings:
    """What int8 is made with.

    Attributes:
        ranges: pictures to measure ranges on.
        max_drop: what the AP may lose.
        epochs: of fine-tuning before; 0 does without.
        training: pictures to fine-tune on.
    """

    ranges: CalibrationPictures
    max_drop: float
    epochs: int = 0
    training: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Writing:
    """An artifact in the making.

    Attributes:
        feeds: pictures as the form takes them.
    """

    feeds: Sequence[tuple[torch.Tensor, ...]]
    subject: ExportSource
    format: str
    kind: Format
    form: DeployForm
    precision: str
    folder: Path
    announce: Callable[[str], None]

    def finish(
        self, reference: Reference, pictures: Pictures, int8_settings: Int8Settings | None = None
    ) -> None:
        """Write, prove, score and describe; with ``int8_settings``, in int8.

        Raises:
            DriftError: if the artifact does not do what the model does.
        """
        self.refer(reference, pictures)
        proof, kept = self.until_proven(lambda: prove(self.folder, self.form, reference, pictures))
        if not proof.parity.passed:
            raise DriftError(
                f"the {self.format} artifact does not do what the model does, and was not kept. First wrong is "
                f"{proof.parity.culprit}",
                proof.parity,
            )
        if int8_settings is not None:
            replace(self, precision="int8").quantise(reference, pictures, int8_settings)
            return
        self.announce("scoring")
        scored = accuracies(self.folder, reference, pictures)
        parity = proof.parity.model_copy(update={"accuracies": scored})
        self.describe(kept, parity, self.prove_others(parity, reference, pictures))

    def refer(self, reference: Reference, pictures: Pictures) -> None:
        """Put reference pictures beside the model's files, where its runtime may choose what it computes in."""
        if len(self.kind.precisions) > 1:
            chosen = [resize(image, reference.size) for image in pictures.images[:REFERENCES]]
            write_reference(self.folder / REFERENCE, chosen, reference.predict)

    def prove_others(
        self, parity: Parity, reference: Reference, pictures: Pictures, int8: Int8 | None = None
    ) -> dict[Precision, Proven]:
        """Proofs in the precisions that the runtime may choose on this CPU; what fails is not chosen, and no more.

        The AP counts as well, where pictures are labelled: rounding moves detections in every picture, up and down.
        """
        first, *others = self.kind.precisions
        whole = next((row for row in reversed(parity.accuracies) if row.ap is not None), None)
        proofs = {
            first: Proven(
                passed=parity.passed,
                runtime=VERSION if others else parity.runtime,
                features=parity.features,
                tolerance=parity.tolerance,
                drifts=parity.drifts,
                accuracy=whole,
            )
        }
        for precision in others:
            if not computes_in(precision):
                self.announce(
                    f"this CPU does not compute in {precision}: it will be tried on the first CPU that does"
                )
                continue
            self.announce(f"comparing in {precision}")
            proof = prove_in(precision, self.folder, self.form, reference, pictures)
            if int8 is not None:
                proof = _judged(proof, int8.whole, int8.chosen.found[precision], int8.max_drop)
            elif whole is not None:
                found = accuracy_in(precision, self.folder, reference.classes, pictures.records)
                proof = _judged(proof, whole, found, MAX_DROP_HALF, JUDGED)
            if not proof.passed:
                self.announce(f"no runtime will choose {precision}: {proof.reason}")
            proofs[precision] = proof
        return proofs

    def until_proven(self, prove_it: Callable[[], Proof]) -> tuple[Proof, tuple[str, ...]]:
        """Write and prove; where half precision is at fault, again with the layer and its kind in float32.

        Returns:
            The last proof, and what stays in float32.
        """
        kept, notes = self._beyond_half()
        for _ in range(RETRIES + 1):
            self.announce(f"writing {self.format}")
            self.write(kept)
            self.announce("comparing with the model")
            proof = prove_it()
            departure = proof.departure
            if proof.parity.passed or departure is None or self.precision == "fp32" or departure.kind in kept:
                break
            kept = (*kept, departure.layer, departure.kind)
            note = f"kept in float32: {departure.layer} and every other {departure.kind}; in half precision {departure}"
            notes.append(note)
            self.announce(note)
        said = (*notes, *proof.parity.notes)
        return replace(proof, parity=proof.parity.model_copy(update={"notes": said})), kept

    def _beyond_half(self) -> tuple[tuple[str, ...], list[str]]:
        """What has to stay in float32 from the start, and that in words."""
        if self.precision != "fp16" or not self.kind.computes_in_half:
            return (), []
        reach = beyond_half(self.form, self.feeds)
        notes = [
            f"kept in float32: {path}, where values reach {value:.2g}; half precision ends at 65504"
            for path, value in reach.items()
        ]
        for note in notes:
            self.announce(note)
        return tuple(reach), notes

    def quantise(self, reference: Reference, pictures: Pictures, int8_settings: Int8Settings) -> None:
        """Bring the float32 files to int8, prove and describe them.

        Raises:
            DriftError: if the AP loses more than it may, or the detections are not the model's.
        """
        trade = accuracies(self.folder, reference, pictures) if _is_less(reference) else ()
        int8 = Quantising(
            self.folder,
            self.form,
            quantiser_of(self.kind).quantise,
            lambda: self.describe((), None),
            int8_settings.ranges,
            pictures.records,
            int8_settings.max_drop,
            tuple(one for one in self.kind.precisions if one == "fp32" or computes_in(one)),
            self.announce,
            partial(self._tune, int8_settings) if int8_settings.epochs else None,
        ).until_accurate()
        self.announce("comparing with the model")
        parity = compare(self.folder, self.form, reference, pictures)
        parity = parity.model_copy(update={"accuracies": (*trade, *int8.accuracies)})
        if not int8.passed:
            measure = int8.whole.measures[0]
            raise DriftError(
                f"int8 loses {int8.drop:.4f} {measure}, more than --max-drop {int8_settings.max_drop:g}, and was not "
                "kept: allow more, give more pictures with --calibration, or fine-tune with --qat EPOCHS",
                parity.model_copy(update={"passed": False, "culprit": f"the {measure}"}),
                int8.describe(),
            )
        if not parity.passed:
            raise DriftError(
                f"the {self.format} artifact was not kept: {parity.culprit}", parity, int8.describe()
            )
        self.describe((), parity, self.prove_others(parity, reference, pictures, int8), int8=int8)

    def _tune(self, int8_settings: Int8Settings) -> Tuned:
        """Fine-tune the model for int8, and put its float32 files in the place of those that are there."""
        self.announce(f"fine-tuning on {len(int8_settings.training)} pictures")
        tuned = fine_tune(
            self.form,
            int8_settings.training,
            self.subject.config,
            int8_settings.epochs,
            announce=self.announce,
        )
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as place:
            draft = replace(self, form=tuned.form, precision="fp32", folder=Path(place))
            draft.write(())
            for file in Path(place).iterdir():
                file.replace(self.folder / file.name)
        return tuned

    def write(self, float32: Sequence[str]) -> None:
        """The model's files and, so that they can be opened, a description without a proof."""
        files = writer_of(self.kind).write(self.form, self.folder, self.precision, float32)
        self.describe(float32, None, files=files)

    def describe(
        self,
        float32: Sequence[str],
        parity: Parity | None,
        precisions: Mapping[Precision, Proven] = MappingProxyType({}),
        files: Sequence[str] = (),
        int8: Int8 | None = None,
    ) -> None:
        """Write ``metadata.json``."""
        subject, options = self.subject, self.form.options
        names = list(files) or self._files()
        referred = (self.folder / REFERENCE).is_file()
        if referred and REFERENCE not in names:
            names.append(REFERENCE)
        raw = options.raw
        limits = subject.model.head.limits
        write_metadata(
            self.folder,
            ArtifactMetadata(
                format=self.format,
                precision=self.precision,
                model=subject.config.model,
                task=subject.config.task,
                classes=[dict(row) for row in subject.classes.to_json()],
                input=Input(
                    sizes=None if raw else "sizes",
                    size=options.size,
                    dynamic_size=options.dynamic_size,
                    smallest=options.smallest if options.dynamic_size else 1,
                    resize="inside" if options.resize_inside else "outside",
                    colour_order={1: "grey", 3: "RGB"}.get(options.channels, "as stored"),
                    channels=options.channels,
                    value_range=subject.config.data.value_range,
                    normalisation=dict(subject.metadata.normalisation),
                    middle=SEEN if TASKS[subject.config.task].middle else None,
                ),
                outputs=Outputs(
                    names=self.form.output_names,
                    box_format="cxcywh fractions" if raw else "xyxy pixels of the original picture",
                    top=options.top,
                ),
                raw=raw,
                suppression=None if limits is None else Suppression(**limits._asdict()),
                thresholds=dict(subject.metadata.thresholds),
                made=self._made(float32) | ({} if int8 is None else {"int8": int8.describe()}),
                licence=subject.metadata.licence,
                provenance=list(subject.metadata.provenance),
                parity=parity,
                precisions=dict(precisions),
                reference=ReferencePictures(file=REFERENCE, tolerance=tolerance_of(self.precision, "bf16"))
                if referred
                else None,
                files=describe_files(self.folder, names),
            ),
        )

    def _files(self) -> list[str]:
        """The files that were described before; their content may have changed since."""
        document = json.loads((self.folder / METADATA).read_text(encoding="utf-8"))
        return list(document["files"])

    def _made(self, float32: Sequence[str]) -> dict[str, Any]:
        options = self.form.options
        return {
            "by": {"flexdetr": __version__, "torch": torch.__version__},
            "decoder_layers": options.decoder_layers,
            "queries": options.queries,
            "sampling": options.sampling,
            **({} if options.target is None else {"target": options.target}),
            "half": self.kind.half if self.precision == "fp16" else "",
            "float32": [*ALWAYS_FLOAT32, *float32] if self.precision == "fp16" else [],
            "training": dict(self.subject.metadata.training),
            "config": self.subject.config.model_dump(mode="json"),
        }


def feeds_of(pictures: Pictures, options: Options) -> list[tuple[torch.Tensor, ...]]:
    """Pictures in the network's size, as the form takes them."""
    feeds: list[tuple[torch.Tensor, ...]] = []
    for image in pictures.images:
        planes = torch.from_numpy(planes_of(image, options.size)).permute(1, 2, 0)[None]
        feeds.append((planes,) if options.raw else (planes, torch.tensor([image.shape[:2]])))
    return feeds


def _judged(proof: Proven, whole: Accuracy, found: Accuracy, allowed: float, fewest: int = 0) -> Proven:
    """A proof with what the AP says, if of as many pictures."""
    judged = proof.model_copy(update={"accuracy": found})
    drop = (whole.ap or 0.0) - (found.ap or 0.0)
    if drop <= allowed or found.pictures < fewest or not proof.passed:
        return judged
    reason = (
        f"it loses {drop:.4f} {whole.measures[0]} on {found.pictures} pictures, and {allowed:g} are allowed"
    )
    return judged.model_copy(update={"passed": False, "reason": reason})


def _is_less(reference: Reference) -> bool:
    """Whether fewer decoder layers or queries are exported than were trained."""
    head = reference.model.head
    return (reference.decoder_layers, reference.queries) != (head.eval_layers, head.queries)
