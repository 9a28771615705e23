"""The verb ``ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json, Set


def ablate(
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN.YAML", help="A base, variants, seeds, data and a budget.")
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Another data set than the plan's.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="VARIANT", help="Compare this variant; may be repeated [default: all]."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,2", help="Other seeds than the plan's.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of each run, instead of the plan's budget.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Minutes of each run, instead of the plan's budget: as many epochs as fit."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results [default: runs/ablations/PLAN]."),
    ] = None,
    changes: Set = None,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing: write the table of what is finished.")
    ] = False,
    measure_again: Annotated[
        bool,
        typer.Option("--measure-again", help="Measure all latencies again, for instance on a quiet machine."),
    ] = False,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Compare variants of a run over several seeds; the same command continues what was stopped."""
    from flexdetr.ablate.plan import changed, read_plan

    if epochs is not None and minutes is not None:
        raise answers.UsageError("--epochs and --minutes are two budgets: give one")
    budget = (
        {"epochs": epochs} if epochs is not None else {"minutes": minutes} if minutes is not None else None
    )
    plan = changed(
        read_plan(plan_file), changes or (), only or (), data=data, seeds=_seeds(seeds), budget=budget
    )
    from flexdetr.ablate.ablation import ablate as run_plan

    folder = out or Path("runs/ablations") / plan_file.stem
    try:
        done = run_plan(
            plan,
            folder,
            run_missing=not report,
            measure_again=measure_again,
            quiet=as_json,
            tell=answers.note,
        )
    except KeyboardInterrupt:
        answers.note("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    if as_json:
        answers.show_json(_document(done))
    else:
        _show(done)
    if any(row.failures for row in done.table):
        raise typer.Exit(1)


def _show(done: Any) -> None:  # noqa: ANN401 - an Ablation; its class would import torch
    from flexdetr.ablate.ablation import CSV, MARKDOWN, PAGE
    from flexdetr.ablate.table import HEADS, cells

    answers.show_table(HEADS, [cells(row) for row in done.table])
    for line in done.notes:
        answers.show(line)
    for row in done.table:
        for failure in row.failures:
            answers.note(f"{row.name}, {failure}")
    for name in (CSV, MARKDOWN, PAGE):
        answers.show(str(done.folder / name))


def _document(done: Any) -> dict[str, Any]:  # noqa: ANN401 - an Ablation
    from dataclasses import asdict

    rows = [asdict(row) for row in done.table]
    for row in rows:
        for key in ("ap", "ap50", "difference", "difference50", "cost"):
            row[key] = row[key] and row[key]._asdict()
    return {"folder": str(done.folder), "missing": done.missing, "notes": list(done.notes), "variants": rows}


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise answers.UsageError(f"--seeds takes numbers with commas between, like 0,1,2; got {text!r}")
    return [int(part) for part in parts]
