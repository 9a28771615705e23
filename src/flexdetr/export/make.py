"""From a detector to an artifact: write it, prove it, and only then put it in its place."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flexdetr.data.check import read_as
from flexdetr.data.dataset import Record
from flexdetr.export.calibration import calibration_of
from flexdetr.export.errors import ExportError
from flexdetr.export.formats import format_of
from flexdetr.export.int8 import CALIBRATION, MAX_DROP
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.reference import SCORED, Reference, pictures_of
from flexdetr.export.targets import check_board
from flexdetr.export.writing import DriftError, ExportSource, Int8Settings, Writing, feeds_of
from flexdetr.runtime.artifact import METADATA, Artifact, open_artifact
from flexdetr.runtime.formats import FORMATS, Format

__all__ = ["DriftError", "ExportSource", "export"]

_log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
# The AP of few pictures moves by more than int8 is allowed to cost.
SCORED_INT8 = 500


def export(
    subject: ExportSource,
    format: str,  # noqa: A002 - what the command line calls it
    out: str | Path,
    *,
    precision: str = "fp32",
    data: str | Path | None = None,
    raw: bool = False,
    decoder_layers: int | None = None,
    queries: int | None = None,
    dynamic_size: bool = False,
    sampling: Literal["auto", "model", "gather", "discrete"] = "auto",
    calibration: int | None = None,
    max_drop: float | None = None,
    qat: int = 0,
    target: str | None = None,
    announce: Callable[[str], None] = _log.info,
) -> Artifact:
    """Export a detector; what is kept has passed the proof.

    Args:
        subject: the detector.
        format: one of ``flexdetr.runtime.formats.NAMED``.
        out: the artifact's folder; an artifact that is there already is replaced once the new one has passed.
        precision: "fp32", "fp16" or "int8".
        data: a data set to prove it on, and to take the AP on; None draws pictures. int8 needs one.
        raw: leave logits and boxes, without post-processing.
        decoder_layers: decoder layers to run, fewer than were trained.
        queries: queries to select.
        dynamic_size: let the network see pictures of any size whose sides are divisible by 32.
        sampling: "model" samples as in training, "gather" does the same without GridSample, "discrete" is for models
            trained so; "auto" is "gather" where the format's runtimes are faster with it, else "model".
        calibration: pictures of the training split to measure int8 ranges on; None is 200.
        max_drop: what the AP on the validation split may lose by int8; None is 0.003.
        qat: epochs of fine-tuning on the training split before int8, with the float model as the teacher.
        target: a kind of board, of ``flexdetr.export.targets.TARGETS``: the format onnx then means two graphs of
            plain operations and fixed shapes, with the choice of queries between them; of a dense head one, whose
            boxes the runtime suppresses.
        announce: told what is being done.

    Raises:
        DriftError: if the artifact does not do what the model does.
        ExportError: if the format cannot express the model, or the options do not fit.
        DataError: if the data cannot be used.
    """
    if target is not None or format == "board":
        check_board(target, format, precision, dynamic_size=dynamic_size)
        format = "board"  # noqa: A001 - see above
    kind = format_of(format)
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    _check_int8(format, kind, precision, data, calibration, max_drop, qat)
    _check_two_graphs(format, kind, precision, dynamic_size=dynamic_size)
    if not subject.model.head.selector and (kind.two_graphs or raw or qat):
        raise ExportError(
            f"head={subject.config.head.name} chooses nothing: it is exported whole, in onnx, openvino or torch, "
            "without raw (--raw), and not fine-tuned for int8 (--qat)"
        )
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
        sampling=_sampling(sampling, subject, kind),
        target=target,
    )
    subject = subject.apart()
    form = prepare(subject.model, options)
    pictures = pictures_of(
        data,
        subject.classes,
        subject.config,
        scored=SCORED_INT8 if precision == "int8" else SCORED,
    )
    reference = Reference(
        subject.model,
        subject.classes,
        options.size,
        decoder_layers=form.options.decoder_layers,
        queries=form.options.queries,
    )
    int8_settings = None
    if precision == "int8" and data is not None:
        count = CALIBRATION if calibration is None else calibration
        ranges = calibration_of(data, subject.classes, subject.config, raw=raw, count=count)
        training = _training(data, subject) if qat else ()
        int8_settings = Int8Settings(ranges, MAX_DROP if max_drop is None else max_drop, qat, training)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    # Int8 is made from a float32 file that was proven: what is off afterwards is rounding.
    first = "fp32" if precision == "int8" else precision
    writing = Writing(feeds_of(pictures, options), subject, format, kind, form, first, draft, announce)
    try:
        writing.finish(reference, pictures, int8_settings)
        _move(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_artifact(out, verify=False)


def _sampling(
    asked: Literal["auto", "model", "gather", "discrete"], subject: ExportSource, kind: Format
) -> Literal["model", "gather", "discrete"]:
    """How the decoder samples in the file; a model trained with discrete sampling keeps to it."""
    if asked != "auto":
        return asked
    return kind.sampling if subject.model.head.sampling == "bilinear" else "model"


def _check_int8(
    name: str,
    kind: Format,
    precision: str,
    data: str | Path | None,
    calibration: int | None,
    max_drop: float | None,
    qat: int,
) -> None:
    """Options of int8, answered before any work."""
    if qat < 0:
        raise ExportError(f"qat is a number of epochs, 0 or more; got {qat}")
    if precision != "int8":
        options = {"calibration": calibration, "max_drop": max_drop, "qat": qat or None}
        given = next((name for name, value in options.items() if value is not None), None)
        if given is not None:
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


def _training(data: str | Path, subject: ExportSource) -> tuple[Record, ...]:
    """The training pictures of a data set."""
    dataset = read_as(subject.config, data, subject.classes)
    if not dataset.splits.get("train"):
        raise ExportError(f"qat fine-tunes on the training split, which {data} does not have")
    return dataset.split("train")


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
