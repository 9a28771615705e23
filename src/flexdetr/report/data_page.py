"""Pages on a data set: what it holds in charts and tables, and its images with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.data.dataset import Dataset, Record
from flexdetr.data.images import ImageError
from flexdetr.data.record_pixels import read_record_reduced
from flexdetr.data.statistics import LARGE, SMALL, Statistics, Twins
from flexdetr.data.views import read_view
from flexdetr.draw import annotate
from flexdetr.metrics.mistakes import Kind, find_mistakes
from flexdetr.report.charts import Bar, bar_chart, matrix
from flexdetr.report.page import page, row, table, tiles
from flexdetr.report.pictures import embedded
from flexdetr.report.pictures import gallery as mistakes_gallery
from flexdetr.runtime.detections import Detections

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.metrics.flat_arrays import FoundByImage

_SIDE = 320  # of a picture in the page
_SHOWN_TWINS = 24
_SHOWN_CLASSES = 24
_SHOWN_DOUBTS = 24
_DOUBTS: dict[str, tuple[Kind, str]] = {
    "Found, not labelled": ("false alarm", "Is the object there, and only its label missing?"),
    "Found as another class": ("wrong class", "Is the label's class right?"),
    "Found in another place": ("wrong place", "Is the label's box tight around its object?"),
    "Labelled, not found": ("missed", "Is there such an object?"),
}
_SIDES = (0, 8, 16, SMALL, 64, LARGE, 128, 256, 512, float("inf"))
_RATIOS = (0, 0.2, 1 / 3, 0.5, 0.75, 1.33, 2, 3, 5, float("inf"))
_COUNTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, float("inf"))


def statistics_page(found: Statistics, doubtful: Mapping[str, str] | None = None) -> str:
    """The page of ``flexdetr data stats``: one HTML file without scripts."""
    dataset = found.dataset
    objects = len(found.sides)
    numbers = {
        "images": f"{len(found.counts):,}",
        "objects": f"{objects:,}",
        "classes": str(len(dataset.classes)),
        "images without objects": f"{int((found.counts == 0).sum()):,}",
        "twins in two splits": f"{len(found.leaks):,}",
    }
    notes = "".join(f"<p>{escape(note)}</p>" for note in (*dataset.notes, *found.unread))
    defects = f"<p>{len(dataset.defects):,} defects: flexdetr check lists them</p>" if dataset.defects else ""
    sections = {
        "Overview": tiles(numbers) + _splits(dataset) + notes + defects,
        "Classes": _classes(found),
        "Sizes": _sizes(found),
        "Classes in one image": _together(found),
        "Images that look alike": _twins(found),
        **(doubtful or {}),
    }
    return page(f"Data: {dataset.root.name}", f"{dataset.root}, read as {dataset.format.upper()}.", sections)


def preview_page(dataset: Dataset, *, count: int, only: str | None = None, seed: int = 0) -> str:
    """The page of ``flexdetr data preview``: images of each split with their labels drawn.

    Args:
        dataset: as it was read.
        count: images of each split, drawn at random.
        only: show images of this class alone.
        seed: decides which images.

    Raises:
        ClassError: if there is no class ``only``.
    """
    wanted = None if only is None else dataset.classes.index_of_name(only)
    sections = {}
    for split, records in dataset.splits.items():
        fitting = [one for one in records if wanted is None or (one.labels == wanted).any()]
        order = np.random.default_rng(seed).permutation(len(fitting))[:count]
        chosen = [fitting[index] for index in sorted(order.tolist())]
        shown = f"<p>{len(chosen):,} of {len(fitting):,} images</p>"
        sections[split] = shown + _gallery([_entry(one, dataset.classes) for one in chosen])
    which = "" if only is None else f", images of {only}"
    lead = f"{dataset.root}, read as {dataset.format.upper()}{which}. Crowd regions are in brackets."
    return page(f"Labels: {dataset.root.name}", lead, sections)


def doubts(records: Sequence[Record], found: FoundByImage, classes: Classes) -> dict[str, str]:
    """Sections on labels that a detector disagrees with, most certain first: HTML by heading.

    Args:
        records: the labelled images, with image ids of their own.
        found: by image id what a detector found, with scores above a half or so.
        classes: of the labels, and of the detector's answers.
    """
    mistakes = find_mistakes(records, found, [0.0] * len(classes))
    sections = {}
    for heading, (kind, meaning) in _DOUBTS.items():
        worst = mistakes.of(kind)
        shown = worst[:_SHOWN_DOUBTS]
        text = f"<p>{escape(meaning)} {len(worst):,} in all, {len(shown):,} are shown.</p>"
        sections[heading] = text + mistakes_gallery(shown, records, classes)
    return sections


def _splits(dataset: Dataset) -> str:
    rows = [
        (
            name,
            len(records),
            sum(int((~one.iscrowd).sum()) for one in records),
            sum(int(one.iscrowd.sum()) for one in records),
            sum(not len(one) for one in records),
        )
        for name, records in dataset.splits.items()
    ]
    return table(["split", "images", "objects", "crowd regions", "images without labels"], rows)


def _classes(found: Statistics) -> str:
    splits = [*found.dataset.splits]
    columns = [
        "class",
        "id",
        *(f"{name}: objects (images)" for name in splits),
        "crowd regions",
        "median side",
    ]
    rows = [
        (
            one.name,
            one.id,
            *(f"{one.objects[name]:,} ({one.images[name]:,})" for name in splits),
            one.crowds,
            "–" if one.side != one.side else f"{100 * one.side:.1f} %",  # noqa: RUF001 - a reader's dash
        )
        for one in found.classes
    ]
    most = sorted(found.classes, key=lambda one: -sum(one.objects.values()))[:_SHOWN_CLASSES]
    bars = [Bar(one.name, sum(one.objects.values())) for one in most]
    note = "<p>The median side is the root of a box's area, as a share of its image's.</p>"
    return row(bar_chart(bars, title="Objects of each class")) + table(columns, rows) + note


def _sizes(found: Statistics) -> str:
    sizes, counts = np.unique(found.sizes, axis=0, return_counts=True)
    common = np.argsort(-counts)[:12]
    rows = [(f"{width}x{height}", int(counts[index])) for index in common for width, height in [sizes[index]]]
    charts = row(
        bar_chart(_histogram(found.sides, _SIDES, " px"), title="Side of an object (root of its area)"),
        bar_chart(_histogram(found.ratios, _RATIOS), title="Width of an object divided by its height"),
        bar_chart(_counted(found.counts, _COUNTS), title="Objects in an image"),
    )
    return charts + f"<h3>Sizes of images</h3>{table(['pixels', 'images'], rows)}"


def _histogram(values: NDArray[np.number], edges: Sequence[float], unit: str = "") -> list[Bar]:
    counts, _ = np.histogram(values, edges)
    names = [
        f"{low:.3g} and more{unit}" if high == float("inf") else f"{low:.3g} to {high:.3g}{unit}"
        for low, high in pairwise(edges)
    ]
    return [Bar(name, count) for name, count in zip(names, counts.tolist(), strict=True)]


def _counted(values: NDArray[np.int64], edges: Sequence[float]) -> list[Bar]:
    """A histogram of whole numbers: "0", "1", "3 to 4", "100 and more"."""
    counts, _ = np.histogram(values, edges)
    names = [
        f"{low:.0f} and more" if high == float("inf") else _span(int(low), int(high) - 1)
        for low, high in pairwise(edges)
    ]
    return [Bar(name, count) for name, count in zip(names, counts.tolist(), strict=True)]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _together(found: Statistics) -> str:
    order = np.argsort(-found.together.diagonal(), kind="stable")[:_SHOWN_CLASSES]
    names = [found.dataset.classes.names[index] for index in order.tolist()]
    counts = found.together[np.ix_(order, order)].tolist()
    left = len(found.classes) - len(names)
    more = f"<p>{left} rarer classes are left out.</p>" if left else ""
    return matrix(names, counts, title="Images that show both classes", corner="class", shares=False) + more


def _twins(found: Statistics) -> str:
    if not found.twins:
        return "<p>none</p>"
    shown = found.twins[:_SHOWN_TWINS]
    text = (
        f"<p>{len(found.twins):,} pairs look the same (their hashes differ in few of 64 bits), {len(found.leaks):,} of "
        f"them in two splits. {len(shown):,} are shown.</p>"
    )
    return text + _gallery([_twin(pair) for pair in shown])


def _twin(pair: Twins) -> str:
    pictures = []
    for _, path in (pair.first, pair.second):
        try:
            image = Image.fromarray(read_view(path, (_SIDE // 2, _SIDE // 2))[0])
        except ImageError as error:
            pictures.append(f"<p>{escape(str(error))}</p>")
            continue
        image.thumbnail((_SIDE // 2, _SIDE // 2))
        pictures.append(f'<img src="{embedded(image)}" alt="{escape(path.name)}">')
    names = "<br>".join(f"{escape(split)}: {escape(path.name)}" for split, path in (pair.first, pair.second))
    return f"<div>{''.join(pictures)}<p>{names}<br>{pair.bits} bits differ</p></div>"


def _entry(record: Record, classes: Classes) -> str:
    try:
        if record.view is None:
            pixels, part = read_view(record.path, (_SIDE, _SIDE))
        else:
            pixels, part = read_record_reduced(record, (_SIDE, _SIDE)), ""
    except ImageError as error:
        return f"<div><p>{escape(str(error))}</p></div>"
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    scale = np.array([image.width / record.width, image.height / record.height] * 2)
    names = [
        f"[{classes.names[label]}]" if crowd else classes.names[label]
        for label, crowd in zip(record.labels.tolist(), record.iscrowd.tolist(), strict=True)
    ]
    ids = [classes.ids[label] for label in record.labels.tolist()]
    labelled = Detections(record.boxes_xyxy * scale, np.ones(len(record)), ids, names, record.labels)  # type: ignore[arg-type]
    text = f"{record.path.name}: {len(record)} object{'' if len(record) == 1 else 's'}"
    if part:
        text += f"; {part}"
    picture = embedded(annotate(image, labelled, scores=False))
    return f'<div><img src="{picture}" alt="{escape(text)}"><p>{escape(text)}</p></div>'


def _gallery(entries: Sequence[str]) -> str:
    return f'<div class="gallery large">{"".join(entries)}</div>' if entries else "<p>none</p>"
