"""An ablation as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from flexdetr.ablate.intervals import HIGHER, LOWER
from flexdetr.ablate.table import HEADS, Row, cells
from flexdetr.report import page as whole
from flexdetr.report.charts import Dot, Line, Spread, interval_chart, line_chart, scatter

_KINDS: Final = {HIGHER: "higher", LOWER: "lower"}


def page(
    title: str,
    table: Sequence[Row],
    notes: Sequence[str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    plan: str,
) -> str:
    """The whole page.

    ``curves`` are (epoch, AP) points by variant, ``plan`` is YAML.
    """
    failures = [f"{row.name}, {failure}" for row in table for failure in row.failures]
    lead = "Variants of one base, trained alike with several seeds; intervals are of 95 %."
    return whole.page(
        title,
        lead,
        {
            "Results": _table(table) + whole.listed(notes),
            "Charts": whole.row(_differences(table), _trade_off(table), _curves(curves)),
            "What each changes": whole.listed([f"{row.name}: {row.changes}" for row in table], code=True),
            "Runs without a score": whole.listed(failures),
            "The plan": whole.folded("YAML", plan),
        },
    )


def _table(table: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    lines = []
    for row in table:
        kind = _KINDS.get(row.verdict, "same")
        data = "".join(
            f'<td class="{kind}">{escape(cell)}</td>'
            if name == "verdict on AP"
            else f"<td>{escape(cell)}</td>"
            for name, cell in zip(HEADS, cells(row), strict=True)
        )
        lines.append(f"<tr>{data}</tr>")
    return f'<div class="scroll"><table class="tight"><tr>{head}</tr>{"".join(lines)}</table></div>'


def _differences(table: Sequence[Row]) -> str:
    """Each variant's AP difference to the base: every seed a ring, the mean with its 95 % interval."""
    rows = [
        Spread(
            row.name,
            [(f"seed {seed}", value) for seed, value in row.pairs],
            *row.difference[:3],
            _KINDS.get(row.verdict, "same"),
            f"{row.name}: {row.difference.mean:+.4f}, {row.verdict}",
        )
        for row in table
        if row.difference and not math.isnan(row.difference.mean)
    ]
    return interval_chart(rows, title="Difference to the base", across="AP - base, paired by seed")


def _trade_off(table: Sequence[Row]) -> str:
    points = [Dot(row.name, row.cost.latency_ms, *row.ap[:3]) for row in table if row.cost]
    return scatter(points, title="AP against latency", across="ms per image, deploy form", up="AP")


def _curves(means: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    lines = [
        Line(name, [epoch for epoch, _ in points], [ap for _, ap in points])
        for name, points in means.items()
        if len(points) > 1
    ]
    if not lines:
        return ""
    return line_chart(lines, title="AP while training, mean of the seeds", across="epoch", up="AP")
