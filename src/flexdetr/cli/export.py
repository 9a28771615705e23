"""The verb ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.runtime.formats import NAMED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flexdetr.runtime.parity import Parity, Precision, Proven


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint.")],
    format: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(metavar="|".join(NAMED), help="What to write.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="triton|ovms", help="Put an artifact (FILE) into a model server's repository (--out)."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --layout: the model's name [default: the artifact's]."),
    ] = None,
    precision: Annotated[str, typer.Option(metavar="fp32|fp16|int8", help="Precision of the file.")] = "fp32",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="A data set to prove it on; without one, pictures are drawn. int8 needs one."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The artifact's folder [default: beside FILE].")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write logits and boxes, without post-processing.")
    ] = False,
    decoder_layers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Run fewer decoder layers than were trained.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Select another number of queries.")
    ] = None,
    image_size: Annotated[str | None, typer.Option(metavar="S|HxW", help="What the network sees.")] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Take pictures of any size divisible by 32, as they come.")
    ] = False,
    sampling: Annotated[
        str,
        typer.Option(
            metavar="auto|model|gather|discrete", help="How the decoder samples; gather: without GridSample."
        ),
    ] = "auto",
    calibration: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Training pictures to measure int8 ranges on [default: 200]."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="AP", help="What int8 may cost on the validation split [default: 0.003]."),
    ] = None,
    qat: Annotated[
        int,
        typer.Option(metavar="EPOCHS", min=0, help="Fine-tune for int8 on the training split before."),
    ] = 0,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="npu|generic|rockchip|qualcomm|horizon",
            help="With onnx: plain graphs for this kind of board.",
        ),
    ] = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Write a detector for another runtime, and prove that the file does what the model does."""
    from flexdetr.runtime.artifact import ArtifactError, is_artifact

    if layout is not None:
        _lay_out(file, layout, out, name, format)
        return
    if format is None:
        raise answers.UsageError(f"say what to write: --format {', '.join(NAMED)}")
    if sampling not in ("auto", "model", "gather", "discrete"):
        raise answers.UsageError(f"--sampling must be auto, model, gather or discrete; got {sampling!r}")
    if not format.isalpha():  # it becomes a part of a folder's name; which ones there are is told below
        raise answers.UsageError(f"--format takes the name of a format, like onnx; got {format!r}")
    if is_artifact(file):
        raise ArtifactError(f"{file} is exported already; export needs the checkpoint that it was made from")
    from flexdetr.api import Detector
    from flexdetr.export.make import DriftError

    changes = {} if image_size is None else {"image_size": image_size}
    detector = Detector.from_checkpoint(file, **changes)
    suffix = "".join(f"-{word}" for word in (precision, target) if word not in ("fp32", None))
    try:
        artifact = detector.export(
            format,
            out or file.with_name(f"{file.stem}-{format}{suffix}"),
            precision=precision,
            data=data,
            raw=raw,
            decoder_layers=decoder_layers,
            queries=queries,
            dynamic_size=dynamic_size,
            sampling=sampling,
            calibration=calibration,
            max_drop=max_drop,
            qat=qat,
            target=target,
            announce=answers.note,
        )
    except DriftError as error:
        if as_json:
            answers.show_json(
                {
                    "artifact": None,
                    "error": str(error),
                    "parity": error.parity.model_dump(),
                    "int8": error.int8,
                }
            )
        else:
            _show(error.parity)
            _show_int8(error.int8)
        raise
    parity, int8 = artifact.parity, artifact.metadata.made.get("int8")
    precisions = artifact.metadata.precisions
    if as_json:
        answers.show_json(
            {
                "artifact": str(artifact.path),
                "parity": None if parity is None else parity.model_dump(),
                "precisions": {name: one.model_dump() for name, one in precisions.items()},
                "int8": int8,
            }
        )
        return
    if parity is not None:
        _show(parity)
    _show_precisions(precisions)
    _show_int8(int8)
    answers.show(f"artifact: {artifact.path}")


def _lay_out(file: Path, layout: str, out: Path | None, name: str | None, format: str | None) -> None:  # noqa: A002
    """Put an artifact into a model server's repository."""
    from flexdetr.config import nearest
    from flexdetr.runtime.artifact import is_artifact, open_artifact
    from flexdetr.runtime.repository import LAYOUTS, write

    if layout not in LAYOUTS:
        raise answers.UsageError(nearest(layout, LAYOUTS, "--layout"))
    if format is not None or not is_artifact(file):
        raise answers.UsageError(
            f"--layout takes an artifact, and {file} is not one: export the checkpoint with --format onnx before"
            if format is None
            else "--layout takes an artifact, whose format is its own: leave --format out"
        )
    artifact = open_artifact(file)
    called = name or artifact.path.name
    if not called or any(not (letter.isalnum() or letter in "-_.") for letter in called):
        raise answers.UsageError(f"--name takes letters, digits, '-', '_' and '.'; got {called!r}")
    folder = write(artifact, layout, out or Path("models"), called)
    answers.show(f"{layout}: {folder}")


def _show(parity: Parity) -> None:
    """The proof as tables."""
    answers.show(f"{parity.runtime} against PyTorch in float32, {parity.pictures}")
    answers.show_table(*parity.table())
    limit = parity.tolerance
    answers.show(
        f"allowed: score drift {limit.score:g}, box drift {limit.box:g} px, for scores above {limit.floor:g}"
    )
    if parity.accuracies:
        answers.show_table(*parity.accuracy_table())
    for note in parity.notes:
        answers.show(note)


def _show_precisions(precisions: Mapping[Precision, Proven]) -> None:
    """What the artifact may be computed in, where a runtime has the choice."""
    if len(precisions) < 2:
        return
    rows: list[list[object]] = [
        [
            name,
            f"{max((drift.score for drift in one.drifts), default=0.0):.1e}",
            f"{max((drift.box for drift in one.drifts), default=0.0):.1e}",
            "" if one.accuracy is None or one.accuracy.ap is None else f"{one.accuracy.ap:.4f}",
            "yes" if one.passed else f"no: {one.reason}",
        ]
        for name, one in precisions.items()
    ]
    measure = next(
        (one.accuracy.measures[0] for one in precisions.values() if one.accuracy is not None), "AP"
    )
    answers.show_table(["computed in", "score drift", "box drift px", measure, "may be chosen"], rows)
    (*_, last) = precisions.values()
    answers.show(f"on {last.runtime}, CPU with {', '.join(last.features)}")


def _show_int8(int8: dict[str, Any] | None) -> None:
    """How int8 was reached, as tables."""
    if int8 is None:
        return
    layers = int8["layers"]
    answers.show(
        f"int8: {layers['int8']} of {layers['all']} convolutions and linear layers; ranges from {int8['calibration']}; "
        f"{int8.get('measure', 'AP')} drop {int8['drop']:.4f}, allowed {int8['max_drop']:g}"
    )
    if "qat" in int8:
        tuned = int8["qat"]
        answers.show(
            f"fine-tuned for {tuned['epochs']} epochs on {tuned['pictures']} pictures: distance from float "
            f"{tuned['losses'][0]:.4f} in the first, {tuned['losses'][-1]:.4f} in the last"
        )
    answers.show_table(
        ["round", "parts in float", int8.get("measure", "AP"), "drop"],
        [
            [number, ", ".join(one["float"]) or "by rule only", f"{one['ap']:.4f}", f"{one['drop']:.4f}"]
            for number, one in enumerate(int8["rounds"], start=1)
        ],
    )
    if int8["sensitivity"]:
        answers.show_table(
            ["part", "layers", "detections move by", "precision"],
            [
                [one["part"], one["layers"], f"{one['distance']:.4f}", one["precision"]]
                for one in int8["sensitivity"]
            ],
        )
