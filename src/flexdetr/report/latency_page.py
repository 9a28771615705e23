"""The page of ``flexdetr bench --plot``: the stages of each detector as a chart, and the tables."""

from __future__ import annotations

from collections.abc import Sequence

from flexdetr.metrics.latency import END_TO_END, STAGES, Timing
from flexdetr.report.charts import Stack, stack_chart
from flexdetr.report.page import page, table

Table = tuple[Sequence[str], Sequence[Sequence[object]]]


def latency_page(timings: Sequence[Timing], machine: str, tables: Sequence[Table]) -> str:
    """One HTML file that needs no other.

    Args:
        timings: a bar each: the medians of the stages, and a line from the end-to-end median to its 99th percentile.
        machine: what it was measured on.
        tables: columns and rows, to stand below.
    """
    chart = stack_chart(
        [
            Stack(
                timing.name,
                [timing.percentile(stage, 50) for stage in STAGES],
                timing.percentile(END_TO_END, 50),
                timing.percentile(END_TO_END, 99),
            )
            for timing in timings
        ],
        names=STAGES,
        title="Medians of the stages; the line is end to end, from the median to the 99th percentile",
        across="milliseconds per picture",
    )
    body = "".join(table(columns, rows) + "<br>" for columns, rows in tables)
    return page("Latency", machine, {"Stages": chart, "Numbers": body})
