"""What stands in the report, section by section."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from flexdetr import __version__
from flexdetr.files import write_whole
from flexdetr.metrics.confusion import Ranking, confusion_matrix, pooled, rank_detections
from flexdetr.metrics.mistakes import Kind, Mistakes, find_mistakes
from flexdetr.metrics.score_calibration import Ranked, calibrate
from flexdetr.report.charts import Line, line_chart, matrix
from flexdetr.report.page import folded, page, row, table, tiles
from flexdetr.report.pictures import gallery
from flexdetr.runtime.cpu import cpu_features, processor

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.coco_map import Metrics
    from flexdetr.metrics.flat_arrays import FoundByImage
    from flexdetr.tasks import Score

USUAL = 0.5  # the threshold of a class of which nothing right was found
_SHOWN_CLASSES = 12
_SHOWN_MISTAKES = 12
_SHOWN_RIGHT = 6
_POINTS = (
    400  # of a curve, or a few more  # right detections with the highest scores, and as many with the lowest
)
_NO_LOSS = ("epoch", "seconds", "loss", "lr", "distill_weight")  # columns that are drawn apart or not
_SCORES = ("ap", "ap50", "ap75", "top1", "top5")  # columns of metrics.csv that are drawn together
_GALLERIES: dict[str, Kind] = {
    "Worst misses": "missed",
    "Worst false alarms": "false alarm",
    "Worst localisation errors": "wrong place",
    "Wrong classes": "wrong class",
    "Duplicates": "duplicate",
}


@dataclass(frozen=True)
class ReportContent:
    """What a report is about.

    Attributes:
        title: of the page.
        lead: a sentence on the model and the data.
        records: the evaluated images.
        found: the detections in them, before any threshold.
        classes: of the head.
        metrics: the numbers; of a detector COCO's.
        splits: all splits of the data set, by name.
        config: YAML; empty if there is none.
        facts: environment, time and memory, by name.
        history: a run's ``metrics.csv``; None if no run is at hand.
        cost: size and speed, by name; see ``cost``.
        beside: other runs as rows of a table, the first one its header; empty if there are none.
    """

    title: str
    lead: str
    records: Sequence[Record]
    found: FoundByImage
    classes: Classes
    metrics: Score
    splits: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    config: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    history: Path | None = None
    cost: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Sequence[object]] = ()


def cost(*, parameters: int = 0, num_bytes: int = 0, seconds: float = 0.0, images: int = 0) -> dict[str, str]:
    """Size and speed as the page shows them; what is 0 is not known.

    Args:
        parameters: of the model.
        num_bytes: of its file or files.
        seconds: that the answers took, reading the pictures included.
        images: that were answered.
    """
    shown = {}
    if parameters:
        shown["parameters"] = f"{parameters / 1e6:.2f} M"
    if num_bytes:
        shown["size of the file"] = f"{num_bytes / 1e6:.1f} MB"
    if seconds and images:
        shown["per image, with reading"] = f"{1000 * seconds / images:.0f} ms"
    return shown


def best_thresholds(rankings: Mapping[str, Ranking]) -> dict[str, float]:
    """The threshold of the highest F1 of each class; classes of which nothing right was found are left out."""
    best = {name: ranking.best_threshold() for name, ranking in rankings.items()}
    return {name: value for name, value in best.items() if math.isfinite(value)}


def write_report(path: Path, subject: ReportContent) -> dict[str, float]:
    """Write the page.

    Returns:
        The best threshold of each class of which something was found.
    """
    rankings = rank_detections(subject.records, subject.found, subject.classes)
    best = best_thresholds(rankings)
    limits = [best.get(name, USUAL) for name in subject.classes.names]
    mistakes = find_mistakes(subject.records, subject.found, limits)
    for_all = pooled(rankings.values())
    sections = {"Score": _score(subject, mistakes, for_all.best_threshold()), **run_sections(subject)}
    sections |= {
        "Classes and sizes": _classes(subject),
        "Precision and recall": _curves(rankings),
        "Thresholds": _thresholds(rankings, best, for_all),
        "Confusion": _confusion(subject, limits),
        "Calibration": calibration_chart(rankings.values(), "detections"),
        "Right detections": _right(subject, mistakes),
        "Mistakes": _mistakes(subject, mistakes),
        "Data": _data(subject),
        **configuration_and_machine(subject),
    }
    write_whole(path, page(subject.title, subject.lead, sections))
    return best


def run_sections(subject: ReportContent) -> dict[str, str]:
    """Curves of the training, and the runs beside it, as far as there are any."""
    sections = {}
    if subject.history is not None and subject.history.exists():
        sections["Training"] = training_charts(subject.history)
    if subject.beside:
        note = "<p>Runs in the same folder with the same classes; each on its own validation split.</p>"
        sections["Other runs"] = table([*map(str, subject.beside[0])], subject.beside[1:]) + note
    return sections


def configuration_and_machine(subject: ReportContent) -> dict[str, str]:
    """What the numbers belong to: configuration and machine."""
    return {
        "Configuration": folded("All settings as YAML", subject.config)
        if subject.config
        else "<p>not known</p>",
        "Environment": table(["what", "value"], list({**environment(), **subject.facts}.items())),
    }


def environment() -> dict[str, str]:
    """The versions and the machine that a report was made with."""
    return {
        "FlexDETR": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "system": platform.platform(),
        "processor": processor(),
        "processor's features": " ".join(cpu_features()),
    }


def _score(subject: ReportContent, mistakes: Mistakes, threshold: float) -> str:
    numbers = subject.metrics.numbers()
    first = {
        name: numbers[key]
        for name, key in (("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75"), ("AR100", "ar100"))
    }
    seen = {name: f"{value:.3f}" if math.isfinite(value) else "–" for name, value in first.items()}  # noqa: RUF001
    rate = mistakes.duplicate_rate
    seen["duplicate rate"] = f"{100 * rate:.1f} %" if math.isfinite(rate) else "–"  # noqa: RUF001
    seen["images"] = f"{len(subject.records):,}"
    if math.isfinite(threshold):
        seen["recommended threshold"] = f"{threshold:.2f}"
    return tiles({**seen, **subject.cost}) + table(list(numbers), [list(numbers.values())])


def training_charts(history: Path) -> str:
    """Curves of a run's ``metrics.csv``."""
    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> Line:
        known = [(float(one["epoch"]), float(one[name])) for one in rows if one.get(name)]
        return Line(name, [epoch for epoch, _ in known], [value for _, value in known])

    if not rows:
        return "<p>no epoch was finished</p>"
    known = [name for name in _SCORES if any(name in one for one in rows)]
    others = [name for name in rows[0] if name not in (*_NO_LOSS, *_SCORES)]
    scores = [column(name) for name in known]
    losses = [column(name) for name in ("loss", *others)]
    return row(
        line_chart(losses, title="Losses", across="epoch", up="loss"),
        line_chart(scores, title="Validation", across="epoch", up="score", y_range=(0, 1), dots=True),
        line_chart([column("lr")], title="Learning rate", across="epoch", up="rate"),
        line_chart([column("seconds")], title="Time", across="epoch", up="seconds"),
    )


def _classes(subject: ReportContent) -> str:
    per_class = cast("Metrics", subject.metrics).per_class
    columns = ["class", "objects", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR100"]
    rows = [
        (
            name,
            one.num_objects,
            one.ap,
            one.ap50,
            one.ap75,
            one.ap_small,
            one.ap_medium,
            one.ap_large,
            one.ar100,
        )
        for name, one in per_class.items()
    ]
    note = "<p>Small: up to 32 x 32 pixels of the original image; medium: up to 96 x 96; large: above.</p>"
    return table(columns, rows) + note


def _curves(rankings: Mapping[str, Ranking]) -> str:
    shown = sorted(rankings, key=lambda name: -rankings[name].num_objects)[:_SHOWN_CLASSES]
    grid = np.linspace(0, 1, 101)
    precision_recall, f1 = [], []
    for name in shown:
        one = rankings[name]
        at_each = one.at(np.unique(one.scores)) if len(one.scores) else one.at(grid)
        step = max(1, len(at_each.recall) // _POINTS)
        precision_recall.append(
            Line(name, at_each.recall[::step].tolist(), at_each.precision[::step].tolist())
        )
        curve = one.at(grid)
        f1.append(Line(name, grid.tolist(), curve.f1.tolist()))
    ends = (0.0, 1.0)
    return row(
        line_chart(
            precision_recall,
            title="Precision over recall",
            across="recall",
            up="precision",
            x_range=ends,
            y_range=ends,
        ),
        line_chart(
            f1, title="F1 over the threshold", across="threshold", up="F1", x_range=ends, y_range=ends
        ),
    ) + (f"<p>The {len(shown)} classes with the most objects.</p>" if len(shown) < len(rankings) else "")


def _thresholds(rankings: Mapping[str, Ranking], best: Mapping[str, float], for_all: Ranking) -> str:
    rows = []
    one_for_all = ""
    if math.isfinite(common := for_all.best_threshold()):
        at = for_all.at([common])
        one_for_all = (
            f"<p>One number for all classes: <code>--threshold {common:.2f}</code>, with precision "
            f"{float(at.precision[0]):.3f}, recall {float(at.recall[0]):.3f} and F1 {float(at.f1[0]):.3f} over all "
            "objects.</p>"
        )
    for name, ranking in rankings.items():
        limit = best.get(name, USUAL)
        at = ranking.at([limit])
        rows.append((name, limit, float(at.precision[0]), float(at.recall[0]), float(at.f1[0])))
    note = f"<p>The thresholds of the highest F1 at IoU 0.5 ({USUAL} where nothing right was found). A run's "
    note += "best checkpoint carries them: <code>flexdetr predict FILE SOURCE --threshold auto</code>.</p>"
    return one_for_all + table(["class", "best threshold", "precision", "recall", "F1"], rows) + note


def _confusion(subject: ReportContent, limits: Sequence[float]) -> str:
    confusion = confusion_matrix(subject.records, subject.found, subject.classes, threshold=limits)
    document = confusion.to_json()
    return matrix(
        document["names"],
        document["counts"],
        title="At the best thresholds and IoU 0.5: objects, and their share of the row",
    )


def calibration_chart(rankings: Iterable[Ranked], what: str) -> str:
    """Curves of the share of right answers by their score.

    Args:
        rankings: the answers; of a detector, of each class.
        what: they are, like "detections".
    """
    calibration = calibrate(rankings)
    ideal = Line("perfect calibration", [0, 1], [0, 1])
    seen = Line(what, calibration.scores.tolist(), calibration.right.tolist())
    centres = ((calibration.edges[1:] + calibration.edges[:-1]) / 2).tolist()
    counts = Line(what, centres, [float(count) for count in calibration.counts])
    error = "" if math.isnan(calibration.error) else f"Expected calibration error {calibration.error:.3f}."
    return f"<p>{error}</p>" + row(
        line_chart(
            [seen, ideal],
            title=f"Share of right {what} by score",
            across="score",
            up="right",
            x_range=(0, 1),
            y_range=(0, 1),
            dots=True,
        ),
        line_chart(
            [counts],
            title=f"{what.capitalize()} by score",
            across="score",
            up="number",
            x_range=(0, 1),
            dots=True,
        ),
    )


def _right(subject: ReportContent, mistakes: Mistakes) -> str:
    """Right detections with the highest and with the lowest scores."""
    ranked = sorted(mistakes.found, key=lambda one: -one.score)
    highest, rest = ranked[:_SHOWN_RIGHT], ranked[_SHOWN_RIGHT:]
    lowest = rest[-_SHOWN_RIGHT:]
    parts = [
        "<p>Blue is the detection, green are the labelled objects.</p>",
        f"<h3>The highest scores</h3>{gallery(highest, subject.records, subject.classes)}",
    ]
    if lowest:
        parts.append(f"<h3>The lowest scores</h3>{gallery(lowest, subject.records, subject.classes)}")
    return "".join(parts)


def _mistakes(subject: ReportContent, mistakes: Mistakes) -> str:
    counts = [(kind, len(mistakes.of(kind))) for kind in _GALLERIES.values()]
    parts = [
        f"<p>At the best thresholds {mistakes.kept:,} detections are kept, {mistakes.right:,} of them right. In the "
        "pictures red is the mistake, green are the labelled objects.</p>",
        table(["kind", "number"], counts),
    ]
    for heading, kind in _GALLERIES.items():
        worst = mistakes.of(kind)[:_SHOWN_MISTAKES]
        parts.append(f"<h3>{heading}</h3>{gallery(worst, subject.records, subject.classes)}")
    return "".join(parts)


def _data(subject: ReportContent) -> str:
    splits = dict(subject.splits) or {"evaluated": subject.records}
    rows = []
    for name, records in splits.items():
        counts = [len(record) for record in records]
        sizes = [math.sqrt(max(0.0, float(area))) for record in records for area in record.areas]
        empty = sum(count == 0 for count in counts)
        median = float(np.median(sizes)) if sizes else math.nan
        rows.append((name, len(records), sum(counts), empty, max(counts, default=0), median))
    columns = ["split", "images", "objects", "images without", "most in one", "median side, pixels"]
    by_class = [
        (
            name,
            *(sum(int((record.labels == index).sum()) for record in records) for records in splits.values()),
        )
        for index, name in enumerate(subject.classes.names)
    ]
    return table(columns, rows) + "<h3>Objects by class</h3>" + table(["class", *splits], by_class)
