"""The table as CSV, Markdown and a page, on results made up here."""

from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ET

import pytest

from flexdetr.ablate.cost import Cost
from flexdetr.ablate.intervals import NO_DIFFERENCE, ONE_SEED
from flexdetr.ablate.page import page
from flexdetr.ablate.runs import Result
from flexdetr.ablate.table import COLUMNS, Row, rows, to_csv, to_markdown

COST = Cost(3_000_000, 6.5, 3_200_000, 6.9, 20.25)


def results(*aps: float) -> dict[int, Result]:
    return {seed: Result(ap, ap + 0.2, 60.0 + seed, 12, 11, 3) for seed, ap in enumerate(aps)}


@pytest.fixture
def table() -> list[Row]:
    diverged = Result(math.nan, math.nan, math.nan, 0, 0, failed="step 3: the loss is nan")
    found = {
        "base": results(0.40, 0.42, 0.41),
        "better": results(0.50, 0.52, 0.511),
        "same": results(0.41, 0.41, 0.41),
        "partly": {**results(0.3), 1: diverged},
        "later": {},
    }
    changes = {name: f"loss.box={name}|<b>" for name in found}
    return rows(found, changes, {"base": COST, "better": COST})


def test_differences_are_paired(table: list[Row]) -> None:
    base, better, same, partly, later = table
    assert base.difference is None
    assert better.verdict == "higher"
    assert better.difference is not None
    assert better.difference.mean == pytest.approx(0.1003, abs=1e-4)
    # Of independent samples the interval would be ten times as wide.
    assert better.difference.half < 0.003 < 0.02 < better.ap.half
    assert [seed for seed, _ in better.pairs] == [0, 1, 2]
    assert same.verdict == NO_DIFFERENCE
    assert partly.verdict == ONE_SEED
    assert partly.failures == ("seed 1: step 3: the loss is nan",)
    assert later.verdict == "not measured"
    assert base.minutes == pytest.approx(61 / 60)


def test_csv_has_every_number(table: list[Row]) -> None:
    read = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert tuple(read[0]) == COLUMNS
    assert [row["variant"] for row in read] == ["base", "better", "same", "partly", "later"]
    assert float(read[1]["ap_difference_low"]) == table[1].difference[1]  # type: ignore[index]
    assert read[0]["ap_difference_mean"] == read[4]["ap_mean"] == read[3]["ap_low"] == ""
    assert (read[0]["params"], read[0]["latency_ms"], read[4]["params"]) == ("3000000", "20.25", "")


def test_markdown(table: list[Row]) -> None:
    text = to_markdown("Losses", table, ["a note"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| better | 0.510 ± 0.025 | 0.710 ± 0.025 | +0.100 ± 0.001 |" in text
    assert NO_DIFFERENCE in text
    assert "- a note" in text


def test_the_page_is_whole_and_escaped(table: list[Row]) -> None:
    curves = {"base": [(1.0, 0.1), (2.0, 0.3)], "later": []}
    text = page("Losses & <more>", table, ["a note"], curves, "data: x")
    assert "<b>" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<svg") == 3
    body = text[text.index("<body>") : text.index("</body>") + 7]
    tree = ET.fromstring(body)
    assert len(tree.findall(".//tr")) == 1 + len(table)
    assert len(tree.findall(".//circle[@class='seed']")) == 3 + 3 + 1
    numbers = [
        float(value)
        for element in tree.iter()
        for name, value in element.attrib.items()
        if name in ("cx", "cy", "x1", "x2", "y1", "y2")
    ]
    assert all(0 <= number <= 900 for number in numbers)


def test_a_page_without_results(table: list[Row]) -> None:
    text = page("Nothing yet", [table[4]], [], {}, "")
    assert "<svg" not in text
