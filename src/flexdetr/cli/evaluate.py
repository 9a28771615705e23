"""The verb ``eval``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flexdetr.cli import answers, refusals
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.tiles import Merge, Overlap, Side, in_tiles
from flexdetr.runtime.formats import ENGINES

File = Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint or an artifact.")]
Layers = Annotated[
    int | None,
    typer.Option("--decoder-layers", metavar="N", min=1, help="Run fewer layers than were trained."),
]
Queries = Annotated[int | None, typer.Option(metavar="N", min=1, help="Select another number of queries.")]
Score = Annotated[
    float | None,
    typer.Option(
        "--score",
        metavar="S",
        min=0,
        max=1,
        help="Dense heads: the score above which boxes go into suppression.",
    ),
]
Iou = Annotated[
    float | None,
    typer.Option(
        "--iou",
        metavar="T",
        min=0,
        max=1,
        help="Dense heads: the overlap above which the worse box is dropped.",
    ),
]
MaxDetections = Annotated[
    int | None,
    typer.Option("--max-detections", metavar="N", min=1, help="Dense heads: the most detections to keep."),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:0", help="Device to compute on.")]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
RUNTIMES = ("auto", *ENGINES)


def one_of(word: str, known: Sequence[str]) -> Callable[[str | None], str | None]:
    """A callback of an option that takes one of some names; the nearest answers another."""

    def check(given: str | None) -> str | None:
        from flexdetr.config import nearest

        if given is not None and given not in known:
            raise answers.UsageError(nearest(given, known, word))
        return given

    return check


Precision = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(PRECISIONS),
        help="Precision of the computation; auto: bf16 if the processor has it and, for an artifact, its proof passed.",
        callback=one_of("precision", PRECISIONS),
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="auto|torch|openvino|...",
        help="What computes; auto: PyTorch for a checkpoint, its format's own for an artifact.",
        callback=one_of("runtime", RUNTIMES),
    ),
]


def evaluate(
    context: typer.Context,
    file: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set with classes of the same names.")],
    split: Annotated[str, typer.Option(metavar="train|val|test", help="Which images.")] = "test",
    device: Device = "auto",
    precision: Precision = None,
    runtime: Runtime = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 8,
    decoder_layers: Layers = None,
    queries: Queries = None,
    score: Score = None,
    iou: Iou = None,
    max_detections: MaxDetections = None,
    tile: Side = None,
    overlap: Overlap = 0.2,
    merge: Merge = "nms",
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
    """Score a detector (the 12 COCO numbers) or a classifier (top-1, top-5), and each class; in float32 by default."""
    from flexdetr.config import nearest
    from flexdetr.data.dataset import SPLITS
    from flexdetr.loading import load
    from flexdetr.runtime.artifact import is_artifact

    if split not in SPLITS:
        raise answers.UsageError(nearest(split, SPLITS, "split"))
    refusals.refuse_of_tiles(context, tile)
    if is_artifact(file):
        refusals.refuse(
            context, ["batch_size"], f"{file} is exported, and its runtime decides how many at a time"
        )
    page = (out or Path(f"{Path(file).stem}-{split}.html")) if report or out else None
    head = of_head(
        eval_layers=decoder_layers, queries=queries, score=score, iou=iou, max_detections=max_detections
    )
    loaded = load(file, runtime=runtime, **head)
    detector = in_tiles(loaded, tile, overlap, merge)
    options = given(device=device, precision=precision, batch_size=batch_size, report=page)
    with answers.counting("evaluating") as show_count:
        metrics = detector.evaluate(data, split, progress=show_count, **options)
    if as_json:
        answers.show_json({"file": file, "data": str(data), "split": split, **metrics.to_json()})
    else:
        answers.show_metrics(metrics)
    if page is not None:
        answers.note(f"report: {page}")


def given(**options: Any) -> dict[str, Any]:  # noqa: ANN401 - of any kind
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def of_head(**options: float | None) -> dict[str, Any]:
    """The changes of the configuration that a head's options stand for; none if none is given."""
    return {"head": chosen} if (chosen := given(**options)) else {}
