"""The verb ``eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json

File = Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint.")]
Layers = Annotated[
    int | None,
    typer.Option("--decoder-layers", metavar="N", min=1, help="Run fewer layers than were trained."),
]
Queries = Annotated[int | None, typer.Option(metavar="N", min=1, help="Select another number of queries.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:0", help="Where it computes.")]


def evaluate(
    file: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set with classes of the same names.")],
    split: Annotated[str, typer.Option(metavar="train|val|test", help="Which images.")] = "test",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 8,
    decoder_layers: Layers = None,
    queries: Queries = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Also write a page: curves, confusion, the worst mistakes in pictures."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Where the page goes [default: FILE-SPLIT.html].")
    ] = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Score a detector: the 12 COCO numbers, and AP for each class."""
    from flexdetr.api import load
    from flexdetr.config import nearest
    from flexdetr.data.dataset import SPLITS

    if split not in SPLITS:
        raise answers.UsageError(nearest(split, SPLITS, "split"))
    page = (out or Path(f"{Path(file).stem}-{split}.html")) if report or out else None
    detector = load(file, **inference(decoder_layers, queries))
    with answers.counting("evaluating") as show_count:
        metrics = detector.evaluate(
            data, split, device=device, batch_size=batch_size, progress=show_count, report=page
        )
    if as_json:
        answers.show_json({"file": file, "data": str(data), "split": split, **metrics.to_json()})
    else:
        answers.show_metrics(metrics)
    if page is not None:
        answers.note(f"report: {page}")


def inference(decoder_layers: int | None, queries: int | None) -> dict[str, Any]:
    """The changes of the configuration that two options stand for; none where neither is given."""
    given = {"eval_layers": decoder_layers, "queries": queries}
    chosen = {key: value for key, value in given.items() if value is not None}
    return {"head": chosen} if chosen else {}
