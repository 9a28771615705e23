"""The verb ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import Json

if TYPE_CHECKING:
    from flexdetr.data.check import Report


def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder in COCO, Pascal VOC or YOLO format.")],
    as_json: Json = False,
) -> None:
    """Read the data as training would, and list every defect with file and line."""
    from flexdetr.data.check import check as check_data

    with answers.counting("checking images") as show_count:
        report = check_data(data, progress=show_count)
    if as_json:
        answers.show_json(report.to_json())
    else:
        _show(report)
    if not report.usable:
        raise typer.Exit(1)


def _show(report: Report) -> None:
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
