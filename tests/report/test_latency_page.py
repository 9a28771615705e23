"""The page of ``bench --plot``."""

from __future__ import annotations

import re

from flexdetr.metrics.latency import END_TO_END, STAGES, Timing
from flexdetr.report.latency_page import latency_page


def timing(name: str) -> Timing:
    return Timing(name, "x", {stage: [1.0, 2.0, 3.0] for stage in STAGES} | {END_TO_END: [10.0, 11.0, 30.0]})


def test_the_page_names_every_detector_and_stage() -> None:
    text = latency_page([timing("one & only"), timing("<two>")], "this machine", [(["file"], [("<two>",)])])
    assert "one &amp; only" in text
    assert "&lt;two>" not in text
    assert text.count("&lt;two&gt;") == 3  # beside its bar, shown whole when pointed at, and in the table
    assert all(f"</i>{stage}</span>" in text for stage in STAGES)
    assert "this machine" in text


def test_the_bars_are_as_long_as_the_medians() -> None:
    slow = Timing("slow", "x", {stage: [4.0] for stage in STAGES} | {END_TO_END: [20.0]})
    text = latency_page([timing("fast"), slow], "this machine", [])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)" height="14"', text)]
    assert len(widths) == 2 * len(STAGES)
    fast, twice = widths[: len(STAGES)], widths[len(STAGES) :]
    assert all(abs(2 * one - two) < 0.3 for one, two in zip(fast, twice, strict=True))
