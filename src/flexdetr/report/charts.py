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
_GOLDEN_ANGLE = 0.381966  # of a full turn: neighbouring lines differ in hue


class Line(NamedTuple):
    """One curve of a chart; points that are not finite are left out.

    Attributes:
        name: in the legend.
        x: values along.
        y: values up.
    """

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

    Args:
        lines: the curves.
        title: what the chart shows.
        across: name of the x axis.
        up: name of the y axis.
        x_range: ends of the x axis; None takes the data's.
        y_range: ends of the y axis; None takes the data's.
        dots: mark each point.
    """
    points = [[(x, y) for x, y in zip(one.x, one.y, strict=True) if _finite(x, y)] for one in lines]
    every = [point for own in points for point in own]
    if not every:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>nothing to show</p></figure>"
    x_low, x_high = x_range or _span([x for x, _ in every])
    y_low, y_high = y_range or _span([y for _, y in every])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_axes(place, (x_low, x_high), (y_low, y_high), across, up)]
    for index, own in enumerate(points):
        at = [place(x, y) for x, y in own]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(index)}" stroke-width="1.8"/>')
        if dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour(index)}"/>' for x, y in at]
    legend = "".join(
        f'<span><i style="background:{colour(index)}"></i>{escape(one.name)}</span>'
        for index, one in enumerate(lines)
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'
    )


class Bar(NamedTuple):
    """One bar of a chart.

    Attributes:
        name: beside it.
        number: its length.
    """

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
        name = bar.name if len(bar.name) <= _LONGEST_NAME else f"{bar.name[: _LONGEST_NAME - 3]}..."
        parts.append(f'<text x="{_NAMES - 6}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{_NAMES}" y="{index * _BAR + 3}" width="{length:.1f}" height="{_BAR - 6}" class="bar"/>'
        )
        parts.append(f'<text x="{_NAMES + length + 5:.1f}" y="{middle}">{bar.number:,}</text>')
    return (
        f'<figure class="bars"><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def matrix(
    names: Sequence[str], counts: Sequence[Sequence[int]], *, title: str, corner: str = "object \\ answer"
) -> str:
    """A table of counts, darker where a row has more of its objects.

    Args:
        names: of rows and columns.
        counts: row by row; of a confusion matrix rows are the truth, columns the answers.
        title: what it shows.
        corner: what stands in its first cell.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="background:rgba(37,99,235,{0.75 * count / total:.2f})">{count or ""}</td>'
            for count in row
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<figure class="wide"><figcaption>{escape(title)}</figcaption><div class="scroll"><table class="matrix">'
        f"<tr><th>{escape(corner)}</th>{head}</tr>{''.join(rows)}</table></div></figure>"
    )


def colour(index: int) -> str:
    """A colour that differs from its neighbours'."""
    red, green, blue = colorsys.hls_to_rgb((0.6 + index * _GOLDEN_ANGLE) % 1, 0.42, 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _axes(
    place: Callable[[float, float], tuple[float, float]],
    x_ends: tuple[float, float],
    y_ends: tuple[float, float],
    across: str,
    up: str,
) -> str:
    parts = []
    for value in _ticks(*x_ends):
        x, _ = place(value, y_ends[0])
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}" class="grid"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{_number(value)}</text>'
        )
    for value in _ticks(*y_ends):
        _, y = place(x_ends[0], value)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    centre = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{centre}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(across)}</text>')
    parts.append(
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>'
    )
    return "".join(parts)


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
