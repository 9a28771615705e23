"""``predict --upright``: documents written with their pages upright, and a line about each page in pages.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flexdetr.cli import answers

if TYPE_CHECKING:
    from flexdetr.classifier import Classifier
    from flexdetr.runtime.classification import Classification
    from flexdetr.runtime.thresholds import Threshold

LINES = "pages.jsonl"
_SHOWN = 1000  # rows of the table; of more pages the angles are counted
_SEEN = 512  # pixels of a page's shorter side that are enough for any model
_AT_ONCE = 16


class _Document(NamedTuple):
    """A file, and its place below OUT."""

    path: Path
    place: Path


def set_upright(
    file: str,
    runtime: str,
    sources: Sequence[str],
    out: Path,
    threshold: Threshold,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Write the documents upright, and show what was done.

    Pages whose orientation is less certain than ``threshold`` are left as they lie.

    Raises:
        UsageError: if the model is of another task, or pages would be overwritten.
        Exit: with status 1 where something could not be read.
    """
    from flexdetr.classifier import Classifier
    from flexdetr.loading import load

    if not isinstance(threshold, float):
        raise answers.UsageError("--upright takes a number as --threshold")
    classifier = load(file, runtime=runtime)
    if not isinstance(classifier, Classifier) or classifier.task != "orientation":
        told = (
            f"this one tells {classifier.task}"
            if isinstance(classifier, Classifier)
            else f"{file} is a detector"
        )
        raise answers.UsageError(f"--upright needs a model that was trained with --task orientation; {told}")
    documents, failed = _found(sources, out)
    how = classifier.computation(**options)
    answers.note(f"computing with {how.describe()}")
    rows: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / LINES).open("w", encoding="utf-8") as lines,
        answers.counting("setting upright") as show_count,
    ):
        for number, document in enumerate(documents, start=1):
            try:
                mine = _one(classifier, document, out, threshold, options)
            except _unreadable() as error:
                failed.append({"file": str(document.path), "error": str(error)})
                answers.note(f"Error: {error}")
                continue
            finally:
                show_count(number, len(documents))
            rows += mine
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in mine)
    unsure = sum(not row["sure"] for row in rows)
    if unsure:
        answers.note(f"{unsure} pages are left as they lie: less certain than --threshold {threshold:g}")
    if as_json:
        answers.show_json({"computation": how.to_json(), "pages": rows, "failed": failed, "out": str(out)})
    elif len(rows) <= _SHOWN:
        columns = ["file", "page", "angle", "score", "how", "upright"]
        answers.show_table(columns, [[row[key] for key in columns] for row in rows])
    else:
        answers.show(f"{len(rows):,} pages, {sum(row['turned'] != 0 for row in rows):,} of them turned")
    answers.note(f"{LINES} and the documents: {out}")
    if failed:
        raise typer.Exit(1)


def _one(
    classifier: Classifier, document: _Document, out: Path, threshold: float, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write one document; a row for each of its pages."""
    from flexdetr.runtime.upright import write_upright

    found = list(_answers(classifier, document.path, options))
    angles = [one.label if one.score >= threshold else 0 for one in found]
    place = out / document.place
    place.parent.mkdir(parents=True, exist_ok=True)
    written, how = write_upright(document.path, angles, place)
    return [
        {
            "file": str(document.path),
            "page": number,
            "angle": one.label,
            "score": round(one.score, 4),
            "sure": one.score >= threshold,
            "turned": angle,
            "how": how,
            "upright": str(written),
        }
        for number, (one, angle) in enumerate(zip(found, angles, strict=True), start=1)
    ]


def _answers(classifier: Classifier, path: Path, options: dict[str, Any]) -> Iterator[Classification]:
    """The orientation of each page of a document."""
    from flexdetr.runtime.documents import num_pages, stored_page

    count = num_pages(path)
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count))
        yield from classifier.predict(
            [stored_page(path, number, short_side=_SEEN) for number in numbers], **options
        )


def _found(sources: Sequence[str], out: Path) -> tuple[list[_Document], list[dict[str, str]]]:
    """The documents that sources name, and what leads nowhere."""
    from flexdetr.runtime.documents import PAGE_SUFFIXES
    from flexdetr.runtime.folders import list_files

    documents: list[_Document] = []
    failed: list[dict[str, str]] = []
    target = out.resolve()
    for source in map(Path, sources):
        if source.is_dir():
            if source.resolve() == target:
                raise answers.UsageError(
                    f"--upright {out} holds the pages themselves, which would be overwritten"
                )
            listing = list_files(source, leave_out=lambda path: path.resolve() == target)
            pages = [path for path in listing.files if path.suffix.lower() in PAGE_SUFFIXES]
            documents += [_Document(path, path.relative_to(source)) for path in pages]
            failed += [{"file": str(path), "error": f"{path}: {reason}"} for path, reason in listing.unread]
            if not pages:
                failed.append({"file": str(source), "error": f"{source}: the folder holds no pages"})
        elif source.is_file():
            if source.resolve().parent == target:
                raise answers.UsageError(
                    f"--upright {out} holds the pages themselves, which would be overwritten"
                )
            documents.append(_Document(source, Path(source.name)))
        else:
            failed.append({"file": str(source), "error": f"{source}: there is no such file or folder"})
    for one in failed:
        answers.note(f"Error: {one['error']}")
    places = {document.place for document in documents}
    if len(places) < len(documents):
        raise answers.UsageError(
            "several of the documents have the same name: give a folder above them, or fewer"
        )
    return documents, failed


def _unreadable() -> tuple[type[Exception], ...]:
    from flexdetr.data.images import ImageError
    from flexdetr.runtime.documents import DocumentError

    return DocumentError, ImageError
