"""From a detector to an artifact: write it, prove it, and only then put it in its place."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from flexdetr import __version__
from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.export.accuracy import accuracies
from flexdetr.export.calibration import Calibration, calibration_of
from flexdetr.export.formats import FORMATS, Format, format_of
from flexdetr.export.half import ALWAYS_FLOAT32, beyond_half
from flexdetr.export.int8 import CALIBRATION, MAX_DROP, Int8, Quantising
from flexdetr.export.prepare import DeployForm, ExportError, Options, prepare
from flexdetr.export.proof import Proof, compare, prove
from flexdetr.export.reference import SCORED, Pictures, Reference, pictures_of
from flexdetr.export.targets import check_board
from flexdetr.model.detector import DetectionModel
from flexdetr.runtime.artifact import (
    METADATA,
    Artifact,
    ArtifactMetadata,
    Input,
    Outputs,
    describe_files,
    open_artifact,
    write_metadata,
)
from flexdetr.runtime.parity import Parity
from flexdetr.runtime.process import prepare as resize
from flexdetr.weights.store import Metadata

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
# Each retry keeps one more kind of layer in float32; there are not more kinds than this.
RETRIES = 4
# The AP of few pictures moves by more than int8 is allowed to cost.
SCORED_INT8 = 500


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
class Subject:
    """What is exported.

    Attributes:
        model: the detector as it was trained.
        config: its configuration.
        classes: of its head.
        metadata: what its checkpoint carries.
    """

    model: DetectionModel
    config: Config
    classes: Classes
    metadata: Metadata


def export(
    subject: Subject,
    format: str,  # noqa: A002 - what the command line calls it
    out: str | Path,
    *,
    precision: str = "fp32",
    data: str | Path | None = None,
    raw: bool = False,
    decoder_layers: int | None = None,
    queries: int | None = None,
    dynamic_size: bool = False,
    sampling: Literal["model", "gather", "discrete"] = "model",
    calibration: int | None = None,
    max_drop: float | None = None,
    target: str | None = None,
    say: Callable[[str], None] = _log.info,
) -> Artifact:
    """Export a detector; what is kept has passed the proof.

    Args:
        subject: the detector.
        format: "onnx", "openvino", "torch" or "executorch".
        out: the artifact's folder; an artifact that is there already is replaced once the new one has passed.
        precision: "fp32", "fp16" or "int8".
        data: a data set to prove it on, and to take the AP on; None draws pictures. int8 needs one.
        raw: leave logits and boxes, without post-processing.
        decoder_layers: decoder layers to run, fewer than were trained.
        queries: queries to select.
        dynamic_size: let the network see pictures of any size whose sides are divisible by 32.
        sampling: "gather" for runtimes without GridSample; "discrete" for models trained so.
        calibration: pictures of the training split to measure int8 ranges on; None is 200.
        max_drop: what the AP on the validation split may lose by int8; None is 0.003.
        target: a kind of board, of ``flexdetr.export.targets.TARGETS``: the format onnx then means two graphs of
            plain operations and fixed shapes, with the choice of queries between them.
        say: told what is being done.

    Raises:
        DriftError: where the artifact does not do what the model does.
        ExportError: where the format cannot express the model, or the options do not fit.
        DataError: where the data cannot be used.
    """
    if target is not None or format == "board":
        check_board(target, format, precision, dynamic_size=dynamic_size)
        format = "board"  # noqa: A001 - see above
    kind = format_of(format)
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    _check_int8(format, kind, precision, data, calibration, max_drop)
    _check_two_graphs(format, kind, precision, dynamic_size=dynamic_size)
    raw = raw or kind.two_graphs
    out = Path(out)
    _check_place(out)
    options = Options(
        size=subject.config.image_size,
        dynamic_size=dynamic_size,
        resize_inside=kind.resizes and not dynamic_size,
        raw=raw,
        decoder_layers=decoder_layers,
        queries=queries,
        sampling=sampling,
        target=target,
    )
    form = prepare(subject.model, options)
    pictures = pictures_of(data, subject.classes, scored=SCORED_INT8 if precision == "int8" else SCORED)
    reference = Reference(
        subject.model.cpu(),
        subject.classes,
        options.size,
        decoder_layers=form.options.decoder_layers,
        queries=form.options.queries,
    )
    ranges = None
    if precision == "int8" and data is not None:
        count = CALIBRATION if calibration is None else calibration
        ranges = calibration_of(data, subject.classes, options.size, raw=raw, count=count)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    # Int8 is made from a float32 file that was proven: what is off afterwards is rounding.
    first = "fp32" if precision == "int8" else precision
    writing = _Writing(_feeds(pictures, options), subject, format, kind, form, first, draft, say)
    try:
        writing.finish(reference, pictures, ranges, MAX_DROP if max_drop is None else max_drop)
        _move(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_artifact(out, verify=False)


@dataclass(frozen=True)
class _Writing:
    """An artifact in the making.

    Attributes:
        feeds: pictures as the form takes them.
    """

    feeds: Sequence[tuple[torch.Tensor, ...]]
    subject: Subject
    format: str
    kind: Format
    form: DeployForm
    precision: str
    folder: Path
    say: Callable[[str], None]

    def finish(
        self, reference: Reference, pictures: Pictures, ranges: Calibration | None, max_drop: float
    ) -> None:
        """Write, prove, score and describe; with ``ranges``, in int8.

        Raises:
            DriftError: where the artifact does not do what the model does.
        """
        proof, kept = self.until_proven(lambda: prove(self.folder, self.form, reference, pictures))
        if not proof.parity.passed:
            raise DriftError(
                f"the {self.format} artifact does not do what the model does, and was not kept. First wrong is "
                f"{proof.parity.culprit}",
                proof.parity,
            )
        if ranges is not None:
            replace(self, precision="int8").quantise(reference, pictures, ranges, max_drop)
            return
        self.say("scoring")
        scored = accuracies(self.folder, reference, pictures)
        self.describe(kept, proof.parity.model_copy(update={"accuracies": scored}))

    def until_proven(self, prove_it: Callable[[], Proof]) -> tuple[Proof, tuple[str, ...]]:
        """Write and prove; where half precision is at fault, again with the layer and its kind in float32.

        Returns:
            The last proof, and what stays in float32.
        """
        kept, notes = self._beyond_half()
        for _ in range(RETRIES + 1):
            self.say(f"writing {self.format}")
            self.write(kept)
            self.say("comparing with the model")
            proof = prove_it()
            departure = proof.departure
            if proof.parity.passed or departure is None or self.precision == "fp32" or departure.kind in kept:
                break
            kept = (*kept, departure.layer, departure.kind)
            note = f"kept in float32: {departure.layer} and every other {departure.kind}; in half precision {departure}"
            notes.append(note)
            self.say(note)
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
            self.say(note)
        return tuple(reach), notes

    def quantise(
        self, reference: Reference, pictures: Pictures, ranges: Calibration, max_drop: float
    ) -> None:
        """Bring the float32 files to int8, prove and describe them.

        Raises:
            DriftError: where the AP loses more than ``max_drop``, or the detections are not the model's.
        """
        trade = accuracies(self.folder, reference, pictures) if _is_less(reference) else ()
        int8 = Quantising(
            self.folder,
            self.form,
            self.kind.quantiser.quantise,
            lambda: self.describe((), None),
            ranges,
            pictures.records,
            max_drop,
            self.say,
        ).until_accurate()
        self.say("comparing with the model")
        parity = compare(self.folder, self.form, reference, pictures)
        parity = parity.model_copy(update={"accuracies": (*trade, *int8.accuracies)})
        if not int8.passed:
            raise DriftError(
                f"int8 loses {int8.drop:.4f} AP where --max-drop allows {max_drop:g}, and was not kept: allow more, "
                "or give more pictures with --calibration",
                parity.model_copy(update={"passed": False, "culprit": "the AP"}),
                int8.describe(),
            )
        if not parity.passed:
            raise DriftError(
                f"the {self.format} artifact was not kept: {parity.culprit}", parity, int8.describe()
            )
        self.describe((), parity, int8=int8)

    def write(self, float32: Sequence[str]) -> None:
        """The model's files and, so that they can be opened, a description without a proof."""
        files = self.kind.writer.write(self.form, self.folder, self.precision, float32)
        self.describe(float32, None, files)

    def describe(
        self,
        float32: Sequence[str],
        parity: Parity | None,
        files: Sequence[str] = (),
        int8: Int8 | None = None,
    ) -> None:
        """Write ``metadata.json``."""
        subject, options = self.subject, self.form.options
        names = list(files) or self._files()
        raw = options.raw
        write_metadata(
            self.folder,
            ArtifactMetadata(
                format=self.format,
                precision=self.precision,
                model=subject.config.model,
                classes=[dict(row) for row in subject.classes.to_json()],
                input=Input(
                    sizes=None if raw else "sizes",
                    size=options.size,
                    dynamic_size=options.dynamic_size,
                    smallest=options.smallest if options.dynamic_size else 1,
                    resize="inside" if options.resize_inside else "outside",
                    normalisation=dict(subject.metadata.normalisation),
                ),
                outputs=Outputs(
                    names=self.form.output_names,
                    box_format="cxcywh fractions" if raw else "xyxy pixels of the original picture",
                    top=options.top,
                ),
                raw=raw,
                thresholds=dict(subject.metadata.thresholds),
                made=self._made(float32) | ({} if int8 is None else {"int8": int8.describe()}),
                licence=subject.metadata.licence,
                provenance=list(subject.metadata.provenance),
                parity=parity,
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


def _feeds(pictures: Pictures, options: Options) -> list[tuple[torch.Tensor, ...]]:
    """Pictures in the network's size, as the form takes them."""
    feeds: list[tuple[torch.Tensor, ...]] = []
    for image in pictures.images:
        planes = torch.from_numpy(resize(image, options.size)).permute(1, 2, 0)[None]
        feeds.append((planes,) if options.raw else (planes, torch.tensor([image.shape[:2]])))
    return feeds


def _is_less(reference: Reference) -> bool:
    """Whether fewer decoder layers or queries are exported than were trained."""
    decoder = reference.model.decoder
    return (reference.decoder_layers, reference.queries) != (decoder.eval_layers, decoder.queries)


def _check_int8(
    name: str,
    kind: Format,
    precision: str,
    data: str | Path | None,
    calibration: int | None,
    max_drop: float | None,
) -> None:
    """Options of int8, answered before any work."""
    if precision != "int8":
        if calibration is not None or max_drop is not None:
            given = "calibration" if calibration is not None else "max_drop"
            raise ExportError(f"{given} is for precision int8; the precision is {precision}")
        return
    if not kind.int8:
        known = " or ".join(other for other, one in FORMATS.items() if one.int8)
        raise ExportError(f"there is no int8 in the format {name}; use {known}")
    if data is None:
        raise ExportError(
            "int8 needs labelled pictures to measure ranges on and to be scored: give --data DATA"
        )
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ExportError(f"max_drop is a difference of AP, between 0 and 1; got {max_drop:g}")


def _check_two_graphs(name: str, kind: Format, precision: str, *, dynamic_size: bool) -> None:
    """Options that two graphs of fixed shapes do not have, answered before any work."""
    if not kind.two_graphs:
        return
    if precision != "fp32":
        raise ExportError(f"the format {name} is written in fp32; got precision {precision}")
    if dynamic_size:
        raise ExportError(f"the format {name} has fixed sizes: leave dynamic_size out")


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; an artifact is a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / METADATA).is_file():
        raise ExportError(f"{out} holds other files; choose a folder that is new, empty or an artifact")


def _move(draft: Path, out: Path) -> None:
    """Put the finished artifact in its place; a former one is gone only afterwards."""
    former = out.with_name(f".{out.name}.{os.getpid()}.former")
    if out.exists():
        out.rename(former)
    draft.rename(out)
    shutil.rmtree(former, ignore_errors=True)
