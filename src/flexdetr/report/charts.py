"""Charts as inline SVG, drawn here: a page without scripts, fonts or files of others."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 36
_BAR, _NAMES, _NUMBERS, _LONGEST_NAME = 20, 130, 60, 20  # of a bar chart: pixels, and characters
_ROW, _BESIDE = 28, 130  # of an interval chart: pixels of a row, and of the names at the left
_STACK = 36  # of a stack chart: pixels of a row
_GOLDEN_ANGLE = 0.381966  # of a full turn: neighbouring lines differ in hue
_Scale = Callable[[float], float]


class Line(NamedTuple):
    """One curve of a chart; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    across: str,
    up: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    dots: bool = False,
) -> str:
    """Curves over one pair of axes, with a legend below.

    ``across`` and ``up`` name the axes, which without their ranges end with the data; ``dots`` marks each point.
    """
    points = [[(x, y) for x, y in zip(one.x, one.y, strict=True) if _finite(x, y)] for one in lines]
    every = [point for own in points for point in own]
    if not every:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>nothing to show</p></figure>"
    x_ends, y_ends = x_range or _span([x for x, _ in every]), y_range or _span([y for _, y in every])
    x, y = _scale(x_ends, _LEFT, _WIDTH - _RIGHT), _scale(y_ends, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_axis_below(x, x_ends, across), *_axis_left(y, y_ends, up)]
    for index, own in enumerate(points):
        at = [(x(along), y(value)) for along, value in own]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(index)}" stroke-width="1.8"/>')
        if dots:
            parts += [
                f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour(index)}"/>' for left, top in at
            ]
    return _figure(title, parts, legend=_legend([one.name for one in lines]))


class Dot(NamedTuple):
    """A named point of a scatter.

    ``low`` and ``high`` are the ends of an interval of ``y``; nan if there is none.
    """

    name: str
    x: float
    y: float
    low: float
    high: float


def scatter(points: Sequence[Dot], *, title: str, across: str, up: str, joined: Sequence[str] = ()) -> str:
    """Named points, each with its interval; nothing if there is none.

    Those that are not finite are left out; x begins at 0. ``joined`` are names to join by a line, in its order.
    """
    shown = [one for one in points if _finite(one.x, one.y)]
    if not shown:
        return ""
    x_ends = (0.0, 1.4 * max(one.x for one in shown) or 1.0)  # with room for the names
    low, high = _span([end for one in shown for end in one[2:] if _finite(end)])
    y_ends = (low - (high - low) / 20, high + (high - low) / 20)
    x, y = _scale(x_ends, _LEFT, _WIDTH - _RIGHT), _scale(y_ends, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_axis_below(x, x_ends, across), *_axis_left(y, y_ends, up)]
    places = {one.name: f"{x(one.x):.1f},{y(one.y):.1f}" for one in shown}
    if len(joined) > 1:
        line = " ".join(places[name] for name in joined)
        parts.append(f'<polyline class="faint" fill="none" points="{line}"/>')
    for one in shown:
        left, top = x(one.x), y(one.y)
        if _finite(one.low, one.high):
            parts.append(
                f'<line class="faint" x1="{left:.1f}" x2="{left:.1f}" y1="{y(one.low):.1f}" y2="{y(one.high):.1f}"/>'
            )
        parts.append(f'<circle class="mean" cx="{left:.1f}" cy="{top:.1f}" r="4"/>')
        parts.append(f'<text x="{left + 8:.1f}" y="{top + 4:.1f}">{escape(one.name)}</text>')
    return _figure(title, parts)


class Spread(NamedTuple):
    """A row of an interval chart.

    Attributes:
        name: beside it.
        values: single values with what they are.
        mean: of the values.
        low: end of the mean's interval; nan if there is none.
        high: the other end.
        kind: "higher", "lower" or "same".
        says: shown when the mean is pointed at.
    """

    name: str
    values: Sequence[tuple[str, float]]
    mean: float
    low: float
    high: float
    kind: str
    says: str


def interval_chart(rows: Sequence[Spread], *, title: str, across: str) -> str:
    """Values around zero below each other: every value a ring, the mean a square with its interval; "" for no row."""
    if not rows:
        return ""
    values = [0.0, *(value for one in rows for _, value in one.values)]
    values += [end for one in rows for end in (one.mean, one.low, one.high) if _finite(end)]
    ends = _span(values)
    x = _scale(ends, _BESIDE, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    parts = _axis_below(x, ends, across, bottom)
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{bottom}"/>')
    for number, one in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(
            f'<text x="{_BESIDE - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(one.name))}</text>'
        )
        parts += [
            f'<circle class="seed" cx="{x(value):.1f}" cy="{y:.1f}" r="3"><title>{escape(what)}: {value:+.4f}'
            "</title></circle>"
            for what, value in one.values
        ]
        if _finite(one.low, one.high):
            parts.append(
                f'<line class="{one.kind}" x1="{x(one.low):.1f}" x2="{x(one.high):.1f}" y1="{y:.1f}" y2="{y:.1f}">'
                f"<title>{one.low:+.4f} to {one.high:+.4f}</title></line>"
            )
        parts.append(
            f'<rect class="{one.kind}" x="{x(one.mean) - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">'
            f"<title>{escape(one.says)}</title></rect>"
        )
    return _figure(title, parts, height=bottom + _BOTTOM)


class Bar(NamedTuple):
    """One bar of a chart."""

    name: str
    number: int


def bar_chart(bars: Sequence[Bar], *, title: str) -> str:
    """Counts as bars below each other, each with its name on the left and its number at its end."""
    if not any(bar.number for bar in bars):
        return f"<figure><figcaption>{escape(title)}</figcaption><p>nothing to show</p></figure>"
    longest = max(bar.number for bar in bars)
    height = _BAR * len(bars)
    parts = []
    for index, bar in enumerate(bars):
        length = bar.number / longest * (_WIDTH - _NAMES - _NUMBERS)
        middle = index * _BAR + _BAR / 2 + 4
        parts.append(
            f'<text x="{_NAMES - 6}" y="{middle}" text-anchor="end">{escape(_short(bar.name))}</text>'
        )
        parts.append(
            f'<rect x="{_NAMES}" y="{index * _BAR + 3}" width="{length:.1f}" height="{_BAR - 6}" class="bar"/>'
        )
        parts.append(f'<text x="{_NAMES + length + 5:.1f}" y="{middle}">{bar.number:,}</text>')
    return _figure(title, parts, height=height, kind="bars")


class Stack(NamedTuple):
    """A row of a stack chart.

    Attributes:
        name: beside it.
        parts: lengths of its pieces, in the order of the chart's names.
        whole: measured by itself, with its number written.
        high: how far the line from ``whole`` goes.
    """

    name: str
    parts: Sequence[float]
    whole: float
    high: float


def stack_chart(rows: Sequence[Stack], *, names: Sequence[str], title: str, across: str) -> str:
    """Bars of pieces below each other, each with a line from its whole to its high end; "" for no row."""
    if not rows:
        return ""
    longest = max(max(one.high, one.whole, sum(one.parts)) for one in rows)
    ends = (0.0, 1.15 * longest or 1.0)  # with room for the number
    x = _scale(ends, _BESIDE, _WIDTH - _RIGHT)
    bottom = _TOP + _STACK * len(rows)
    parts = _axis_below(x, ends, across, bottom)
    for number, one in enumerate(rows):
        top, start = _TOP + _STACK * number, 0.0
        parts.append(
            f'<text x="{_BESIDE - 8}" y="{top + 17}" text-anchor="end">{escape(_short(one.name))}'
            f"<title>{escape(one.name)}</title></text>"
        )
        for index, length in enumerate(one.parts):
            parts.append(
                f'<rect x="{x(start):.1f}" y="{top + 5}" width="{x(start + length) - x(start):.1f}" height="14" '
                f'fill="{colour(index)}"><title>{escape(names[index])}: {length:.4g}</title></rect>'
            )
            start += length
        y = top + 26
        parts.append(
            f'<line class="same" x1="{x(one.whole):.1f}" y1="{y}" x2="{x(one.high):.1f}" y2="{y}"/>'
            f'<circle class="mean" cx="{x(one.whole):.1f}" cy="{y}" r="3"/>'
            f'<text x="{x(one.high) + 6:.1f}" y="{y + 4}">{one.whole:.1f}</text>'
        )
    return _figure(title, parts, height=bottom + _BOTTOM, legend=_legend(names))


def matrix(
    names: Sequence[str],
    counts: Sequence[Sequence[int]],
    *,
    title: str,
    corner: str = "object \\ answer",
    shares: bool = True,
) -> str:
    """A table of counts, darker if a row has more of its objects.

    ``corner`` stands in its first cell; ``shares`` also shows each count as a share of its row.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="background:rgba(37,99,235,{0.75 * count / total:.2f})">{_counted(count, total, shares)}</td>'
            for count in row
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<figure class="wide"><figcaption>{escape(title)}</figcaption><div class="scroll"><table class="matrix">'
        f"<tr><th>{escape(corner)}</th>{head}</tr>{''.join(rows)}</table></div></figure>"
    )


def _counted(count: int, total: int, shares: bool) -> str:
    share = f"<small>{100 * count / total:.0f} %</small>" if shares else ""
    return f"{count}{share}" if count else ""


def colour(index: int) -> str:
    """A colour that differs from its neighbours'."""
    red, green, blue = colorsys.hls_to_rgb((0.6 + index * _GOLDEN_ANGLE) % 1, 0.42, 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _figure(
    title: str, parts: Sequence[str], *, height: float = _HEIGHT, legend: str = "", kind: str = ""
) -> str:
    named = f' class="{kind}"' if kind else ""
    return (
        f'<figure{named}><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>{legend}</figure>'
    )


def _legend(names: Sequence[str]) -> str:
    each = (
        f'<span><i style="background:{colour(index)}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f'<div class="legend">{"".join(each)}</div>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _scale(ends: tuple[float, float], start: float, stop: float) -> _Scale:
    """The function from a value to its place in pixels."""
    low, high = ends
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _axis_below(
    x: _Scale, ends: tuple[float, float], name: str, bottom: float = _HEIGHT - _BOTTOM
) -> list[str]:
    parts = []
    for value in _ticks(*ends):
        parts.append(
            f'<line x1="{x(value):.1f}" y1="{_TOP}" x2="{x(value):.1f}" y2="{bottom}" class="grid"/>'
        )
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 14}" text-anchor="middle">{_number(value)}</text>'
        )
    centre = (x(ends[0]) + x(ends[1])) / 2
    return [*parts, f'<text x="{centre:g}" y="{bottom + 32}" text-anchor="middle">{escape(name)}</text>']


def _axis_left(y: _Scale, ends: tuple[float, float], name: str) -> list[str]:
    parts = []
    for value in _ticks(*ends):
        parts.append(
            f'<line x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}" class="grid"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return [
        *parts,
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(name)}</text>',
    ]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two ends."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    around = abs(low) / 2 or 0.5
    return (low, high) if high > low else (low - around, high + around)


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-2:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"  # "0.0004" would run into the name of its axis
    return f"{value:.4g}"


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
