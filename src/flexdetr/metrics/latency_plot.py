"""A picture of latencies: a bar for each detector, made of its stages. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flexdetr.metrics.latency import END_TO_END, STAGES, Timing

_COLOURS = {"decode": "#9aa5b1", "prepare": "#5b8def", "infer": "#f2a541", "finish": "#4fb286"}
_LEFT, _WIDTH, _ROW, _TOP = 220, 560, 46, 56


def plot(timings: Sequence[Timing], title: str) -> str:
    """The medians of the stages stacked, with a line from the end-to-end median to its 99th percentile.

    Returns:
        An SVG document.
    """
    longest = max(
        max(timing.percentile(END_TO_END, 99), sum(timing.percentile(stage, 50) for stage in STAGES))
        for timing in timings
    )
    scale = _WIDTH / max(longest, 1e-6)
    height = _TOP + _ROW * len(timings) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 110}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
    ]
    for i, stage in enumerate(STAGES):
        parts.append(
            f'<rect x="{_LEFT + 90 * i}" y="34" width="10" height="10" fill="{_COLOURS[stage]}"/>'
            f'<text x="{_LEFT + 90 * i + 14}" y="43">{stage}</text>'
        )
    for row, timing in enumerate(timings):
        top = _TOP + _ROW * row
        parts += _bar(timing, top, scale)
    base = _TOP + _ROW * len(timings) + 8
    for step in range(5):
        x = _LEFT + _WIDTH * step / 4
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{base}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{base + 14}" text-anchor="middle">{longest * step / 4:.3g}</text>'
        )
    parts.append(
        f'<text x="{_LEFT + _WIDTH / 2}" y="{base + 30}" text-anchor="middle">'
        "milliseconds per picture; line: end to end, median to 99th percentile</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _bar(timing: Timing, top: int, scale: float) -> list[str]:
    edge = f'x="{_LEFT - 8}" text-anchor="end"'
    parts = [
        f'<text {edge} y="{top + 14}">{escape(timing.name)}</text>'
        f'<text {edge} y="{top + 28}" fill="#777" font-size="10">{escape(timing.what)}</text>'
    ]
    x = float(_LEFT)
    for stage in STAGES:
        width = timing.percentile(stage, 50) * scale
        parts.append(
            f'<rect x="{x:.1f}" y="{top + 4}" width="{width:.1f}" height="16" fill="{_COLOURS[stage]}"/>'
        )
        x += width
    middle, late = (_LEFT + timing.percentile(END_TO_END, percent) * scale for percent in (50, 99))
    parts.append(
        f'<line x1="{middle:.1f}" y1="{top + 25}" x2="{late:.1f}" y2="{top + 25}" stroke="#333" stroke-width="2"/>'
        f'<circle cx="{middle:.1f}" cy="{top + 25}" r="3" fill="#333"/>'
        f'<text x="{late + 6:.1f}" y="{top + 29}">{timing.percentile(END_TO_END, 50):.1f} ms</text>'
    )
    return parts
