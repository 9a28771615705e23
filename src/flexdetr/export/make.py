"""From a detector to an artifact: write it, prove it, and only then put it in its place."""

from __future__ import annotations

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
from flexdetr.export.formats import Format, format_of
from flexdetr.export.half import ALWAYS_FLOAT32
from flexdetr.export.prepare import DeployForm, ExportError, Options, prepare
from flexdetr.export.proof import Proof, prove
from flexdetr.export.reference import Reference, pictures_of
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
from flexdetr.weights.store import Metadata

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16")
# Each retry keeps one more kind of layer in float32; there are not more kinds than this.
RETRIES = 4


class DriftError(ExportError):
    """An artifact that does not do what the model does.

    Attributes:
        parity: how far it was off.
    """

    def __init__(self, message: str, parity: Parity) -> None:
        super().__init__(message)
        self.parity = parity


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
    say: Callable[[str], None] = _log.info,
) -> Artifact:
    """Export a detector; what is kept has passed the proof.

    Args:
        subject: the detector.
        format: "onnx", "openvino" or "torch".
        out: the artifact's folder; an artifact that is there already is replaced once the new one has passed.
        precision: "fp32" or "fp16".
        data: a data set to prove it on, and to take the AP on; None draws pictures.
        raw: leave logits and boxes, without post-processing.
        decoder_layers: decoder layers to run, fewer than were trained.
        queries: queries to select.
        dynamic_size: let the network see pictures of any size whose sides are divisible by 32.
        sampling: "gather" for runtimes without GridSample; "discrete" for models trained so.
        say: told what is being done.

    Raises:
        DriftError: where the artifact does not do what the model does.
        ExportError: where the format cannot express the model, or the options do not fit.
        DataError: where the data cannot be used.
    """
    kind = format_of(format)
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
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
    )
    form = prepare(subject.model, options)
    pictures = pictures_of(data, subject.classes)
    reference = Reference(
        subject.model.cpu(),
        subject.classes,
        options.size,
        decoder_layers=form.options.decoder_layers,
        queries=form.options.queries,
    )
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        writing = _Writing(subject, format, kind, form, precision, draft, say)
        proof, kept = writing.until_proven(lambda: prove(draft, form, reference, pictures))
        parity = proof.parity
        if not parity.passed:
            raise DriftError(
                f"the {format} artifact does not do what the model does, and was not kept. First wrong is "
                f"{parity.culprit}",
                parity,
            )
        say("scoring")
        parity = parity.model_copy(update={"accuracies": accuracies(draft, reference, pictures)})
        writing.describe(kept, parity)
        _move(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_artifact(out, verify=False)


@dataclass(frozen=True)
class _Writing:
    """An artifact in the making."""

    subject: Subject
    format: str
    kind: Format
    form: DeployForm
    precision: str
    folder: Path
    say: Callable[[str], None]

    def until_proven(self, prove_it: Callable[[], Proof]) -> tuple[Proof, tuple[str, ...]]:
        """Write and prove; where half precision is at fault, again with the layer and its kind in float32.

        Returns:
            The last proof, and what stays in float32.
        """
        kept: tuple[str, ...] = ()
        notes: list[str] = []
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

    def write(self, float32: Sequence[str]) -> None:
        """The model's files and, so that they can be opened, a description without a proof."""
        files = self.kind.writer.write(self.form, self.folder, self.precision, float32)
        self.describe(float32, None, files)

    def describe(self, float32: Sequence[str], parity: Parity | None, files: Sequence[str] = ()) -> None:
        """Write ``metadata.json``."""
        subject, options = self.subject, self.form.options
        names = list(files) or list(open_artifact(self.folder, verify=False).metadata.files)
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
                made=self._made(float32),
                licence=subject.metadata.licence,
                provenance=list(subject.metadata.provenance),
                parity=parity,
                files=describe_files(self.folder, names),
            ),
        )

    def _made(self, float32: Sequence[str]) -> dict[str, Any]:
        options = self.form.options
        return {
            "by": {"flexdetr": __version__, "torch": torch.__version__},
            "decoder_layers": options.decoder_layers,
            "queries": options.queries,
            "sampling": options.sampling,
            "half": self.kind.half if self.precision == "fp16" else "",
            "float32": [*ALWAYS_FLOAT32, *float32] if self.precision == "fp16" else [],
            "training": dict(self.subject.metadata.training),
            "config": self.subject.config.model_dump(mode="json"),
        }


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
