"""The verbs of ``flexdetr data``: convert, split, merge, stats, preview."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json

if TYPE_CHECKING:
    from flexdetr.data.dataset import Dataset
    from flexdetr.metrics.flat_arrays import FoundByImage

Data = Annotated[Path, typer.Argument(metavar="IN", help="A data set in COCO, Pascal VOC or YOLO form.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")]
Form = Annotated[
    str | None, typer.Option(metavar="coco|voc|yolo", help="The form of OUT [default: that of IN].")
]
Link = Annotated[bool, typer.Option("--link", help="Hard links to the images instead of copies.")]
Renumber = Annotated[bool, typer.Option("--renumber", help="Number the classes 0, 1, 2 ...")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out what cannot be read, rather than refuse.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Decides the random choice.")]
Page = Annotated[Path, typer.Option(metavar="HTML", help="Where the page goes.")]
_CERTAIN = 0.5  # from this score on a detector's disagreement puts a label in doubt


def convert(
    data: Data,
    out: Out,
    to: Annotated[str, typer.Option(metavar="coco|voc|yolo", help="The form of OUT.")],
    link: Link = False,
    renumber: Renumber = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Write a data set in another form: boxes, classes and splits; what the form cannot keep is reported."""
    _write(_read(data, skip_bad), out, to, link=link, renumber=renumber, as_json=as_json)


def split(
    data: Data,
    out: Out,
    shares: Annotated[
        str, typer.Option(metavar="TRAIN/VAL/TEST", help="Shares of the three; 0 makes no such split.")
    ] = "0.8/0.1/0.1",
    seed: Seed = 0,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="folder|REGEX",
            help="Keep images together: those of one folder, or with one match of the expression in the path.",
        ),
    ] = None,
    stratified: Annotated[
        bool, typer.Option("--stratified", help="Give each split its share of every class.")
    ] = False,
    to: Form = None,
    link: Link = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Split all images of a data set again."""
    from flexdetr.data.splitting import split as divide

    dataset = _read(data, skip_bad)
    divided = divide(dataset, _shares(shares), seed=seed, group=group, stratified=stratified)
    _write(divided, out, to or dataset.format, link=link, as_json=as_json)


def merge(
    data: Annotated[list[Path], typer.Argument(metavar="IN...", help="Data sets in any of the three forms.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    to: Form = None,
    link: Link = False,
    renumber: Renumber = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Make one data set of several: classes of one name are one class, splits of one name one split."""
    from flexdetr.data.check import shared_images
    from flexdetr.data.splitting import merge as join

    joined = join([_read(one, skip_bad) for one in data])
    shared = [str(defect) for defect in shared_images(joined)]
    _write(joined, out, to or joined.format, link=link, renumber=renumber, as_json=as_json, notes=shared)


def stats(
    data: Data,
    out: Page = Path("data-stats.html"),
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FILE", help="Also show labels that this detector disagrees with."),
    ] = None,
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Count a data set: classes, sizes, what occurs together, images that look alike; a page with charts."""
    from flexdetr.data.detect import read
    from flexdetr.data.statistics import statistics
    from flexdetr.report.data_page import doubts, statistics_page

    dataset = read(data, val_fraction=None)
    with answers.counting("comparing images") as show_count:
        counted = statistics(dataset, show_count)
    doubtful = {}
    if model is not None:
        dataset, found = _found(model, dataset)
        records = [record for split in dataset.splits.values() for record in split]
        doubtful = doubts(records, found, dataset.classes)
    _save(out, statistics_page(counted, doubtful))
    if as_json:
        answers.show_json({**counted.to_json(), "page": str(out)})
        return
    splits = [*dataset.splits]
    answers.show_table(
        ["class", "id", *splits, "crowd regions", "median side"],
        [(one.name, one.id, *one.objects.values(), one.crowds, one.side) for one in counted.classes],
    )
    for pair in counted.leaks:
        answers.show(f"{pair.first[1]} ({pair.first[0]}) looks like {pair.second[1]} ({pair.second[0]})")
    for reason in counted.unread:
        answers.show(reason)
    answers.show(f"page: {out}")


def preview(
    data: Data,
    out: Page = Path("data-preview.html"),
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Images of each split.")] = 48,
    only: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Only images that show this class.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Show images with their labels on a page."""
    from flexdetr.data.detect import read
    from flexdetr.report.data_page import preview_page

    _save(out, preview_page(read(data, val_fraction=None), count=count, only=only, seed=seed))
    answers.show(f"page: {out}")


def crops(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    seed: Annotated[
        int, typer.Option(help="Decides which become the validation split if there is none.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Cut the objects out, as a classifier's data: OUT/SPLIT/CLASS/PICTURE-N.png."""
    from flexdetr.data.crops import cut_out

    counts = cut_out(data, out, seed=seed)
    if as_json:
        answers.show_json({"out": str(out), "objects": counts})
        return
    answers.show_table(["split", "objects"], [*counts.items()])


DATA_VERBS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "split": split,
    "merge": merge,
    "stats": stats,
    "preview": preview,
    "crops": crops,
}


def _read(data: Path, skip_bad: bool) -> Dataset:
    """A data set with the splits that it has, none of which has an error unless errors are to be left out."""
    from flexdetr.data.dataset import DataError
    from flexdetr.data.detect import read

    dataset = read(data, val_fraction=None)
    if dataset.errors and not skip_bad:
        raise DataError(
            f"{data} has files or boxes that cannot be read: {len(dataset.errors)}, the first: {dataset.errors[0]}; "
            "fix them (flexdetr check lists all), or go on without them: --skip-bad"
        )
    return dataset


def _write(
    dataset: Dataset,
    out: Path,
    to: str,
    *,
    link: bool,
    as_json: bool,
    renumber: bool = False,
    notes: list[str] | None = None,
) -> None:
    from flexdetr.data.writing import renumbered, write

    with answers.counting("writing images") as show_count:
        written = write(renumbered(dataset) if renumber else dataset, out, to, link=link, progress=show_count)
    left = [*dataset.notes, *(str(defect) for defect in dataset.defects), *(notes or []), *written.notes]
    splits = {name: len(records) for name, records in dataset.splits.items()}
    if as_json:
        answers.show_json(
            {"out": str(out), "format": to, "images": splits, "boxes": written.boxes, "notes": left}
        )
        return
    for note in left:
        answers.show(note)
    counts = ", ".join(f"{count} {name}" for name, count in splits.items())
    answers.show(f"{out}: {to.upper()}, images: {counts}")


def _shares(text: str) -> dict[str, float]:
    from flexdetr.data.dataset import SPLITS

    try:
        values = [float(word) for word in text.split("/")]
    except ValueError:
        values = []
    if len(values) != len(SPLITS):
        raise answers.UsageError(f"--shares takes three numbers like 0.8/0.1/0.1; got {text!r}")
    return {name: value for name, value in zip(SPLITS, values, strict=True) if value}


def _found(model: str, dataset: Dataset) -> tuple[Dataset, FoundByImage]:
    """The data with the detector's classes and an id for each image, and what the detector is sure of in them."""
    from dataclasses import replace

    from flexdetr.classifier import load_detector
    from flexdetr.runtime.sources import Item, Unreadable

    detector = load_detector(model)
    dataset = dataset.with_classes(detector.classes).with_form(detector.form)
    splits = {
        split: tuple(replace(one, image_id=f"{split}/{one.image_id}") for one in records)
        for split, records in dataset.splits.items()
    }
    records = [record for split in splits.values() for record in split]
    found = {}
    with answers.counting("predicting") as show_count:
        several = detector.predict_many([Item(str(one.path), one.path) for one in records], _CERTAIN)
        for number, (record, answer) in enumerate(zip(records, several, strict=True), start=1):
            if not isinstance(answer, Unreadable):  # among the statistics' own already
                boxes = answer[1]
                found[record.image_id] = (boxes.boxes_xyxy, boxes.scores, boxes.indices)
            show_count(number, len(records))
    return replace(dataset, splits=splits), found


def _save(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
