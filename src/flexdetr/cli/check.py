"""The verb ``check``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import Json
from flexdetr.cli.evaluate import one_of
from flexdetr.tasks import TASKS

if TYPE_CHECKING:
    from flexdetr.data.check import CheckReport


def check(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA|FILE.onnx", help="Folder in COCO, Pascal VOC or YOLO format; or an ONNX file."
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="npu|generic|rockchip|qualcomm|horizon", help="The board that an ONNX file is meant for."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(TASKS),
            help="What the data is for [default: detected].",
            callback=one_of("task", [*TASKS]),
        ),
    ] = None,
    channels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Channels of the pictures, as in data.channels.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Read data as training would and list every defect; or list what in an ONNX file a board does not take."""
    if data.suffix.lower() == ".onnx":
        _check_ops(data, target or "generic", as_json=as_json)
        return
    if target is not None:
        raise answers.UsageError(f"--target is for ONNX files; {data} is not named like one")
    from flexdetr.data.check import check as check_data
    from flexdetr.pixel_form import PixelForm

    with answers.counting("checking images") as show_count:
        kind = task or _task_of(data)
        report = check_data(data, progress=show_count, kind=kind, form=PixelForm(channels))
    if as_json:
        answers.show_json(report.to_json())
    else:
        _show(report)
    if not report.usable:
        raise typer.Exit(1)


def _task_of(data: Path) -> str:
    """What a data set is for: a folder for each class, without annotations, is for a classifier."""
    from flexdetr.data.class_folders import class_folders
    from flexdetr.data.detect import format_of

    return "classify" if data.is_dir() and format_of(data) is None and class_folders(data) else "detect"


def _check_ops(path: Path, target: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    from flexdetr.export.board_ops import check_ops

    findings = check_ops(path, target)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        answers.show_json({"file": str(path), "target": target, "findings": rows})
    elif findings:
        counts = Counter((one.op, one.layer, one.why) for one in findings)
        answers.show_table(
            ["operation", "layer", "why", "times"], [(*key, count) for key, count in counts.items()]
        )
    else:
        answers.show(f"{path}: every operation is one that {target} takes")
    if findings:
        raise typer.Exit(1)


def _show(report: CheckReport) -> None:
    splits = report.dataset.splits
    answers.show(f"{report.dataset.root}: {report.dataset.format.upper()}")
    answers.show_table(
        ["split", "images", "boxes", "images without boxes"],
        [
            (name, len(records), sum(map(len, records)), sum(not len(record) for record in records))
            for name, records in splits.items()
        ],
    )
    answers.show("")
    answers.show_table(
        ["class", "id", *splits],
        [
            (name, number, *(report.histogram[name][split] for split in splits))
            for name, number in zip(report.dataset.classes.names, report.dataset.classes.ids, strict=True)
        ],
    )
    answers.show("")
    for text in (*report.dataset.notes, *map(str, report.defects)):
        answers.show(text)
    verdict = "usable" if report.usable else "not usable"
    warnings = len(report.defects) - report.num_errors
    answers.show(f"{verdict}: {_counted(report.num_errors, 'error')}, {_counted(warnings, 'warning')}")
    if not splits.get("train"):
        answers.show("there are no training images")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
