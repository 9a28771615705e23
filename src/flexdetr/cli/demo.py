"""The verb ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexdetr.cli import answers


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for everything; replaces an earlier demo.")
    ] = Path("demo"),
) -> None:
    """Draw a data set, train on it, score on held-out scenes, export and predict: offline, in minutes on a CPU."""
    from flexdetr.demo import run

    try:
        outcome = run(out, announce=answers.note)
    except KeyboardInterrupt as stop:
        answers.note(str(stop) or "interrupted")
        raise typer.Exit(130) from None
    answers.show_metrics(outcome.metrics)
    answers.show(f"score on held-out scenes: AP {outcome.metrics.ap:.3f}, AP50 {outcome.metrics.ap50:.3f}")
    answers.show(f"annotated pictures:       {outcome.pictures}")
    answers.show(f"trained detector:         {outcome.checkpoint}")
    answers.show(f"exported artifact:        {outcome.artifact}")
    answers.show(f"data set:                 {outcome.data}")
    answers.show(f"time:                     {outcome.seconds / 60:.1f} min")
