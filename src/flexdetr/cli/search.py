"""The verb ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.evaluate import given


def search(
    plan_file: Annotated[
        Path,
        typer.Argument(metavar="PLAN.YAML", help="A base, a space of values, data, and rungs of epochs."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DATA", help="Other data sets than the plan's; may be repeated."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=2, help="How many to try, the base included, instead of the plan's number."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the results [default: runs/searches/PLAN].")
    ] = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Search a space of detectors for a front of accuracy and milliseconds; the same command continues."""
    from flexdetr.ablate.search_plan import read_search_plan

    plan = read_search_plan(plan_file)
    plan = plan.model_copy(update=given(data=tuple(data) if data else None, candidates=candidates))
    from flexdetr.ablate.search import CSV, HEADS, MARKDOWN, PAGE, cells
    from flexdetr.ablate.search import search as run_plan

    folder = out or Path("runs/searches") / plan_file.stem
    try:
        done = run_plan(plan, folder, quiet=as_json, tell=answers.note)
    except KeyboardInterrupt:
        answers.note("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    if as_json:
        rows = [row._asdict() | {"ap": row.ap._asdict()} for row in done.table]
        answers.show_json({"folder": str(done.folder), "notes": list(done.notes), "candidates": rows})
        return
    answers.show_table(HEADS, [cells(row) for row in done.table])
    for line in (*done.notes, *(str(done.folder / name) for name in (CSV, MARKDOWN, PAGE))):
        answers.show(line)
