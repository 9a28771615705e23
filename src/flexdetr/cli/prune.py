"""The verb ``prune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json, Set
from flexdetr.cli.evaluate import one_of

if TYPE_CHECKING:
    from flexdetr.pruning import Pruned

_PRECISIONS = ("fp32", "bf16", "int8")


def prune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trained detector's checkpoint.")],
    data: Annotated[
        Path, typer.Option(metavar="DATA", help="What it was trained on, to measure and fine-tune on.")
    ],
    target_ms: Annotated[
        float | None,
        typer.Option("--target-ms", metavar="MS", help="Milliseconds for resizing and network of a picture."),
    ] = None,
    target_share: Annotated[
        float | None,
        typer.Option(
            "--target-share", metavar="S", help="The same as a share of what it takes now, like 0.7."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Epochs of the fine-tuning.")] = 10,
    precision: Annotated[
        str,
        typer.Option(
            metavar="|".join(_PRECISIONS),
            help="What OpenVINO computes in while it is measured.",
            callback=one_of("precision", _PRECISIONS),
        ),
    ] = "fp32",
    threads: Annotated[int, typer.Option(metavar="N", help="CPU threads; 0: OpenVINO's choice.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder [default: runs/MODEL-pruned].")
    ] = None,
    changes: Set = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Take channels away from a trained detector until it is fast enough on OpenVINO, and fine-tune it."""
    from flexdetr.api import Detector
    from flexdetr.cli.train import free_folder
    from flexdetr.config import parse_overrides
    from flexdetr.pruning import open_detector
    from flexdetr.pruning import prune as cut

    detector: Detector = open_detector(file)
    typed: dict[str, Any] = dict(parse_overrides(changes or ()))
    try:
        done = cut(
            detector,
            data,
            out=out or free_folder(Path("runs"), f"{detector.config.model}-pruned"),
            target_ms=target_ms,
            target_share=target_share,
            epochs=epochs,
            precision=precision,  # type: ignore[arg-type]  # checked by its callback
            threads=threads,
            quiet=as_json,
            announce=answers.note,
            **typed,
        )
    except KeyboardInterrupt as stop:
        answers.note(str(stop) or "interrupted")
        raise typer.Exit(130) from None
    if as_json:
        answers.show_json(done.to_json())
        return
    _show(done)


def _show(done: Pruned) -> None:
    """The table, the proof, and where everything is."""
    answers.show(f"measured with {done.how}")
    answers.show_table(
        ["", "ms", "parameters", "GFLOPs", "AP (val)"],
        [[one.name, one.milliseconds, one.params, one.gflops, one.ap] for one in done.stages],
    )
    answers.show(
        f"{done.share:.0%} of the channels went; the cut is exact: off by {done.deviation:.1e} of the largest value"
    )
    answers.show("the fine-tuned detector finds on OpenVINO in fp32 what it finds on PyTorch")
    answers.show(f"best checkpoint: {done.run.best}")
    answers.show(f"the run:         {done.run.folder}")
