"""The page about a classifier: its numbers, confusion, calibration, and its worst mistakes in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.data.images import ImageError
from flexdetr.data.record_pixels import read_record
from flexdetr.files import write_whole
from flexdetr.metrics.classification import Answers, answers_of, confusion
from flexdetr.report.charts import matrix
from flexdetr.report.make import ReportContent, calibration_chart, configuration_and_machine, run_sections
from flexdetr.report.page import page, table, tiles
from flexdetr.report.pictures import embedded
from flexdetr.runtime.arrays import shown

if TYPE_CHECKING:
    from flexdetr.data.dataset import Record

_WORST = 24
_SIDE = 220
_MATRIX = 40  # classes in a table of confusion; of more, the pairs alone are listed


class Scored(NamedTuple):
    """The most probable classes' scores, and whether they are right; what calibration looks at."""

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]


def write_class_report(path: Path, subject: ReportContent) -> dict[str, float]:
    """Write the page; a classifier has no thresholds.

    Args:
        path: the file.
        subject: what the page is about; its metrics are a classifier's.
    """
    told = answers_of(subject.records, subject.found, subject.classes)
    names = subject.classes.names
    sections = {"Score": _score(subject), **run_sections(subject)}
    (_, (columns, rows)) = subject.metrics.tables()
    sections |= {
        "Classes": table(columns, rows),
        "Confusion": _confusion(told, names),
        "Calibration": calibration_chart([Scored(told.scores, told.right)], "pictures"),
        "Mistakes": _mistakes(subject.records, told, names),
        "Data": _data(subject.splits or {"evaluated": subject.records}, names),
        **configuration_and_machine(subject),
    }
    write_whole(path, page(subject.title, subject.lead, sections))
    return {}


def _score(subject: ReportContent) -> str:
    numbers = subject.metrics.numbers()
    seen = {name: f"{100 * value:.1f} %" for name, value in numbers.items()}
    return tiles({**seen, "pictures": f"{len(subject.records):,}", **subject.cost})


def _confusion(told: Answers, names: Sequence[str]) -> str:
    counts = confusion(told, len(names))
    wrong = counts - np.diag(np.diag(counts))
    worst = [(int(row), int(column)) for row, column in zip(*np.nonzero(wrong), strict=True)]
    worst.sort(key=lambda pair: -wrong[pair])
    pairs = [(names[row], names[column], int(wrong[row, column])) for row, column in worst[:_WORST]]
    listed = (
        "<h3>Most frequent</h3>" + table(["shows", "taken for", "pictures"], pairs)
        if pairs
        else "<p>none</p>"
    )
    if len(names) > _MATRIX:
        return listed
    title = "Rows: what pictures show; columns: what they were taken for"
    return matrix(list(names), counts.tolist(), title=title) + listed


def _mistakes(records: Sequence[Record], told: Answers, names: Sequence[str]) -> str:
    """The wrong answers with the highest scores."""
    wrong = np.flatnonzero(~told.right)
    order = wrong[np.argsort(-told.scores[wrong], kind="stable")]
    if not len(order):
        return "<p>none</p>"
    entries = "".join(_entry(records[row], told, int(row), names) for row in order[:_WORST].tolist())
    return (
        f"<p>{len(order):,} of {len(records):,} pictures were taken for another class; first those with the highest "
        f'scores.</p><div class="gallery">{entries}</div>'
    )


def _entry(record: Record, told: Answers, row: int, names: Sequence[str]) -> str:
    try:
        picture = Image.fromarray(shown(read_record(record)))
    except ImageError as error:
        return f"<div><p>{escape(str(error))}</p></div>"
    picture.thumbnail((_SIDE, _SIDE))
    text = f"{names[told.truth[row]]}, taken for {names[told.ranked[row, 0]]} {told.scores[row]:.2f}"
    below = f"{escape(text)}<br><small>{escape(record.path.name)}</small>"
    return f'<div><img src="{embedded(picture)}" alt="{escape(text)}"><p>{below}</p></div>'


def _data(splits: Mapping[str, Sequence[Record]], names: Sequence[str]) -> str:
    counts = {
        split: np.bincount([int(one.labels[0]) for one in records], minlength=len(names))
        for split, records in splits.items()
        if records
    }
    rows = [(name, *(int(own[index]) for own in counts.values())) for index, name in enumerate(names)]
    return table(["class", *counts], [*rows, ("all", *(int(own.sum()) for own in counts.values()))])
