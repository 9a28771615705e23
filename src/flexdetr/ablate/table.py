"""The table of an ablation: one row a variant, as values, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flexdetr.ablate.cost import Cost
from flexdetr.ablate.intervals import Interval, interval, verdict
from flexdetr.ablate.plan import BASE
from flexdetr.ablate.runs import Result


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: of the variant.
        changes: what it changes of the base, as ``key=value`` texts.
        ap: over the seeds.
        ap50: over the seeds.
        difference: of the AP to the base's with the same seed; None for the base itself.
        difference50: likewise, of the AP50.
        verdict: what ``difference`` says.
        seeds: seeds that have a score.
        pairs: seed and AP difference, for each seed that both have.
        minutes: mean time of training with its evaluations.
        epochs: that each run trained.
        cost: see ``Cost``; None if no run has finished.
        failures: one sentence for each run without a score.
    """

    name: str
    changes: str
    ap: Interval
    ap50: Interval
    difference: Interval | None
    difference50: Interval | None
    verdict: str
    seeds: tuple[int, ...]
    pairs: tuple[tuple[int, float], ...]
    minutes: float
    epochs: int
    cost: Cost | None
    failures: tuple[str, ...] = ()


Results = Mapping[str, Mapping[int, Result]]


def rows(results: Results, changes: Mapping[str, str], costs: Mapping[str, Cost]) -> list[Row]:
    """A row for each variant.

    Args:
        results: by variant and seed; the base is called "base".
        changes: what each changes, by name, in the order of the rows.
        costs: by name, as far as they are known.
    """
    base = results.get(BASE, {})
    return [_row(name, results.get(name, {}), base, text, costs.get(name)) for name, text in changes.items()]


def _row(
    name: str, results: Mapping[int, Result], base: Mapping[int, Result], changes: str, cost: Cost | None
) -> Row:
    scored = {seed: result for seed, result in results.items() if not result.failed}
    pairs = {seed: base[seed] for seed in scored if seed in base and not base[seed].failed}
    ap = tuple(scored[seed].ap - pairs[seed].ap for seed in pairs)
    ap50 = tuple(scored[seed].ap50 - pairs[seed].ap50 for seed in pairs)
    own = name == BASE
    seconds = [result.seconds for result in scored.values()]
    return Row(
        name,
        changes,
        interval([result.ap for result in scored.values()]),
        interval([result.ap50 for result in scored.values()]),
        None if own else interval(ap),
        None if own else interval(ap50),
        "" if own else verdict(interval(ap)),
        tuple(scored),
        () if own else tuple(zip(pairs, ap, strict=True)),
        math.fsum(seconds) / len(seconds) / 60 if seconds else math.nan,
        max((result.epochs for result in scored.values()), default=0),
        cost,
        tuple(f"seed {seed}: {result.failed}" for seed, result in results.items() if result.failed),
    )


COLUMNS: Final = (
    "variant",
    "changes",
    "seeds",
    "epochs",
    *(f"{value}_{part}" for value in ("ap", "ap50") for part in ("mean", "low", "high")),
    *(f"{value}_difference_{part}" for value in ("ap", "ap50") for part in ("mean", "low", "high")),
    "verdict",
    "params",
    "gflops",
    "params_training",
    "gflops_training",
    "latency_ms",
    "training_minutes",
    "failures",
)


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """All numbers at full precision; those that do not exist are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value is None or value != value else value for value in row] for row in rows)
    return text.getvalue()


def as_markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]) -> str:
    """A heading, a table, and the notes under it."""
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def to_csv(table: Sequence[Row]) -> str:
    """See ``as_csv``."""
    lines = []
    for row in table:
        numbers = [
            *row.ap[:3],
            *row.ap50[:3],
            *(row.difference or _NONE)[:3],
            *(row.difference50 or _NONE)[:3],
        ]
        cost = row.cost or (None,) * len(Cost._fields)
        values = [row.name, row.changes, " ".join(map(str, row.seeds)), row.epochs or None, *numbers]
        lines.append([*values, row.verdict, *cost, row.minutes, "; ".join(row.failures)])
    return as_csv(COLUMNS, lines)


_NONE = Interval(math.nan, math.nan, math.nan, 0)
HEADS: Final = (
    "variant",
    "AP",
    "AP50",
    "AP - base",
    "AP50 - base",
    "verdict on AP",
    "M params",
    "GFLOPs",
    "ms",
    "epochs",
    "min",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as a person reads it; parameters, GFLOPs and milliseconds are those of the deploy form."""
    cost = row.cost
    return (
        row.name,
        interval_text(row.ap),
        interval_text(row.ap50),
        interval_text(row.difference, signed=True) if row.difference else "",
        interval_text(row.difference50, signed=True) if row.difference50 else "",
        row.verdict or ("failed" if row.failures and not row.seeds else ""),
        f"{cost.params / 1e6:.2f}" if cost else "",
        f"{cost.gflops:.2f}" if cost else "",
        f"{cost.latency_ms:.1f}" if cost else "",
        str(row.epochs or ""),
        "" if math.isnan(row.minutes) else f"{row.minutes:.1f}",
    )


def interval_text(value: Interval, *, signed: bool = False) -> str:
    """``0.412 ± 0.013``: the mean and half of its 95 % interval; the mean alone if there is no interval."""
    if math.isnan(value.mean):
        return "-"
    mean = f"{value.mean:+.3f}" if signed else f"{value.mean:.3f}"
    return mean if math.isnan(value.low) else f"{mean} ± {value.half:.3f}"


def to_markdown(title: str, table: Sequence[Row], notes: Sequence[str]) -> str:
    """See ``as_markdown``; what each variant changes, and what failed, stand behind the notes."""
    changes = [f"{row.name}: {row.changes}" for row in table]
    failures = [f"{row.name}, {failure}" for row in table for failure in row.failures]
    return as_markdown(title, HEADS, map(cells, table), [*notes, *changes, *failures])
