"""An ablation as one self-contained HTML page: no script, no file beside it, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from flexdetr.ablate import plots
from flexdetr.ablate.table import HEADS, Row, cells

_STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2630; --faint: #d5dbe1; --accent: #2f6db3;
  --higher: #23844f; --lower: #b8423a; --same: #77828d; }
@media (prefers-color-scheme: dark) { :root { --back: #14191f; --text: #e3e8ed; --faint: #38424c; --accent: #78aee8;
  --higher: #5cc98d; --lower: #ee8178; --same: #96a2ae; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.higher { color: var(--higher); } .lower { color: var(--lower); } .same { color: var(--same); }
svg { width: 100%; max-width: 820px; font-size: 12px; } svg text { fill: var(--text); }
svg .grid, svg .faint { stroke: var(--faint); } svg .zero { stroke: var(--text); stroke-dasharray: 4 3; }
svg .seed { fill: none; stroke: var(--same); } svg .mean { fill: var(--accent); }
svg line.higher, svg line.lower, svg line.same { stroke: currentColor; stroke-width: 2; }
svg rect.higher, svg rect.lower, svg rect.same { fill: currentColor; }
code { overflow-wrap: anywhere; }
"""
_KINDS: Final = {"higher": "higher", "lower": "lower"}


def page(
    title: str,
    table: Sequence[Row],
    notes: Sequence[str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    plan: str,
) -> str:
    """The whole page.

    Args:
        title: its heading.
        table: the rows.
        notes: how the numbers came about, one sentence or two each.
        curves: (epoch, AP) points by variant.
        plan: the plan as YAML.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table(table),
        _list(notes),
        _section("Difference to the base", plots.differences(table)),
        _section("AP against latency", plots.trade_off(table)),
        _section("While training", plots.curves(curves)),
        "<h2>What each changes</h2>",
        _list([f"{row.name}: {row.changes}" for row in table], code=True),
    ]
    failures = [f"{row.name}, {failure}" for row in table for failure in row.failures]
    if failures:
        parts += ["<h2>Runs without a score</h2>", _list(failures)]
    parts.append(f"<h2>The plan</h2><pre>{escape(plan)}</pre>")
    return document(title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A page of some parts, the empty ones left out."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(part for part in parts if part)
    html = f'<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n</body></html>'
    return f"<!doctype html>\n{html}\n"


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
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _list(items: Sequence[str], *, code: bool = False) -> str:
    opened, closed = ("<code>", "</code>") if code else ("", "")
    return f"<ul>{''.join(f'<li>{opened}{escape(item)}{closed}</li>' for item in items)}</ul>"


def _section(name: str, plot: str) -> str:
    return f"<h2>{escape(name)}</h2>{plot}" if plot else ""
