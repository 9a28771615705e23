"""The plots of an ablation's page as inline SVG, which needs no library and no second file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

from flexdetr.ablate.statistics import HIGHER, LOWER, Interval
from flexdetr.ablate.table import Row

_WIDTH: Final = 820
_LEFT, _RIGHT, _BELOW, _ABOVE = 170, 30, 44, 12
_LINE = 28
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#ff9da7")
_Points = Sequence[tuple[float, float]]


def differences(table: Sequence[Row]) -> str:
    """Each variant's AP difference to the base: every seed a dot, the mean with its 95 % interval."""
    shown = [row for row in table if row.difference and not math.isnan(row.difference.mean)]
    if not shown:
        return ""
    values = [0.0]
    for row in shown:
        values += [value for _, value in row.pairs]
        values += [end for end in (row.difference or ())[:3] if not math.isnan(end)]
    ticks, x = _axis(values, _LEFT, _WIDTH - _RIGHT)
    bottom = _ABOVE + _LINE * len(shown)
    parts = _ticks_below(ticks, x, bottom, "AP - base, paired by seed")
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_ABOVE}" y2="{bottom}"/>')
    for number, row in enumerate(shown):
        y = _ABOVE + _LINE * (number + 0.5)
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>')
        parts += _whisker(row, x, y)
    return _svg(parts, bottom + _BELOW, "Difference of the AP to the base, by variant")


def _whisker(row: Row, x: Callable[[float], float], y: float) -> list[str]:
    kind = {HIGHER: "higher", LOWER: "lower"}.get(row.verdict, "same")
    mean, low, high, _ = row.difference or Interval(math.nan, math.nan, math.nan, 0)
    parts = [
        f'<circle class="seed" cx="{x(value):.1f}" cy="{y:.1f}" r="3"><title>seed {seed}: {value:+.4f}</title></circle>'
        for seed, value in row.pairs
    ]
    if not math.isnan(low):
        parts.append(
            f'<line class="{kind}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>{low:+.4f} to {high:+.4f}</title></line>"
        )
    parts.append(
        f'<rect class="{kind}" x="{x(mean) - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">'
        f"<title>{escape(row.name)}: {mean:+.4f}, {escape(row.verdict)}</title></rect>"
    )
    return parts


def trade_off(table: Sequence[Row]) -> str:
    """AP against the latency of the deploy form."""
    shown = [(row.name, row.cost.latency_ms, row.ap) for row in table if row.cost]
    return scatter(shown, "ms per image, from pixels to objects, deploy form")


def scatter(points: Sequence[tuple[str, float, Interval]], below: str, front: Sequence[str] = ()) -> str:
    """AP against milliseconds.

    Args:
        points: name, milliseconds and AP; those without an AP are left out.
        below: what the milliseconds are.
        front: names to join by a line, the fastest first.
    """
    shown = [one for one in points if not math.isnan(one[2].mean)]
    if not shown:
        return ""
    height = 340
    ticks, x = _axis([0.0, *(milliseconds for _, milliseconds, _ in shown)], 60, _WIDTH - 140)
    ends = [end for _, _, ap in shown for end in ap[:3] if not math.isnan(end)]
    across, y = _axis(ends, height - _BELOW, _ABOVE)
    parts = _ticks_below(ticks, x, height - _BELOW, below)
    parts += _ticks_left(across, y, 60, _WIDTH - 140)
    places = {name: f"{x(milliseconds):.1f},{y(ap.mean):.1f}" for name, milliseconds, ap in shown}
    if len(front) > 1:
        line = " ".join(places[name] for name in front)
        parts.append(f'<polyline class="faint" fill="none" points="{line}"/>')
    for name, milliseconds, ap in shown:
        left, top = x(milliseconds), y(ap.mean)
        if not math.isnan(ap.low):
            parts.append(
                f'<line class="faint" x1="{left:.1f}" x2="{left:.1f}" y1="{y(ap.low):.1f}" y2="{y(ap.high):.1f}"/>'
            )
        parts.append(f'<circle class="mean" cx="{left:.1f}" cy="{top:.1f}" r="5"/>')
        parts.append(f'<text x="{left + 9:.1f}" y="{top + 4:.1f}">{escape(name)}</text>')
    return _svg(parts, height, "AP against latency")


def curves(means: Mapping[str, _Points]) -> str:
    """AP on the validation split while training, mean over the seeds."""
    shown = {name: points for name, points in means.items() if len(points) > 1}
    if not shown:
        return ""
    height = 340
    right = _WIDTH - 180
    ticks, x = _axis([0.0, *(epoch for points in shown.values() for epoch, _ in points)], 60, right)
    across, y = _axis([0.0, *(ap for points in shown.values() for _, ap in points)], height - _BELOW, _ABOVE)
    parts = _ticks_below(ticks, x, height - _BELOW, "epoch") + _ticks_left(across, y, 60, right)
    for number, (name, points) in enumerate(shown.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x(epoch):.1f},{y(ap):.1f}" for epoch, ap in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        row = _ABOVE + 18 * number
        parts.append(f'<rect x="{right + 14}" y="{row}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{right + 32}" y="{row + 11}">{escape(name)}</text>')
    return _svg(parts, height, "AP on the validation split, by epoch")


def _axis(values: Sequence[float], start: float, end: float) -> tuple[list[float], Callable[[float], float]]:
    """Round ticks around the values, and the function from a value to its place."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    ticks = [step * number for number in range(first, last + 1)]
    return ticks, lambda value: start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _ticks_below(ticks: Sequence[float], x: Callable[[float], float], bottom: float, name: str) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_ABOVE}" y2="{bottom:.1f}"/>'
        )
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{tick:g}</text>')
    middle = (x(ticks[0]) + x(ticks[-1])) / 2
    return [
        *parts,
        f'<text x="{middle:.1f}" y="{bottom + 36:.1f}" text-anchor="middle">{escape(name)}</text>',
    ]


def _ticks_left(ticks: Sequence[float], y: Callable[[float], float], left: float, right: float) -> list[str]:
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return [*parts, f'<text x="{left + 6}" y="{y(ticks[-1]) + 15:.1f}">AP</text>']


def _svg(parts: Sequence[str], height: float, name: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
