"""The verb ``eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import Json

File = Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:0", help="Where it computes.")]


def evaluate(
    file: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set with classes of the same names.")],
    split: Annotated[str, typer.Option(metavar="train|val|test", help="Which images.")] = "test",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 8,
    as_json: Json = False,
) -> None:
    """Score a detector: the 12 COCO numbers, and AP for each class."""
    from flexdetr.api import load
    from flexdetr.config import nearest
    from flexdetr.data.dataset import SPLITS

    if split not in SPLITS:
        raise answers.UsageError(nearest(split, SPLITS, "split"))
    metrics = load(file).evaluate(data, split, device=device, batch_size=batch_size)
    if as_json:
        answers.show_json({"file": file, "data": str(data), "split": split, **metrics.to_json()})
    else:
        answers.show_metrics(metrics)
