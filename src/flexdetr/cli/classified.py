"""``predict`` with a classifier: a line for each picture in classes.jsonl and classes.csv, and a table."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flexdetr.cli import answers

if TYPE_CHECKING:
    from flexdetr.classifier import Classifier
    from flexdetr.runtime.sources import Item

_TOP = 5  # classes of a picture that are written
_SHOWN = 1000  # rows of the table; of more pictures the classes are counted


def predict_classes(
    classifier: Classifier,
    items: list[Item],
    missing: list[tuple[str, str]],
    out: Path,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Write and show what pictures were taken for.

    Raises:
        Exit: with status 1 where something could not be read.
    """
    from flexdetr.runtime.sources import Unreadable

    how = classifier.computation(items=items, **options)
    answers.note(f"computing with {how.describe()}")
    rows: list[dict[str, Any]] = []
    failed = [{"image": name, "error": reason} for name, reason in missing]
    out.mkdir(parents=True, exist_ok=True)
    with (
        (out / "classes.jsonl").open("w", encoding="utf-8") as lines,
        (out / "classes.csv").open("w", encoding="utf-8", newline="") as table,
        answers.counting("predicting") as show_count,
    ):
        sheet = csv.writer(table)
        sheet.writerow(["image", "rank", "name", "label", "score"])
        for number, answer in enumerate(classifier.predict_many(items, **options), start=1):
            if isinstance(answer, Unreadable):
                failed.append({"image": answer.name, "error": answer.reason})
                continue
            picture, found = answer
            best = found.top(_TOP).to_json()
            rows.append({"image": picture.name, "classes": best})
            lines.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
            for rank, one in enumerate(best, start=1):
                sheet.writerow([picture.name, rank, one["name"], one["label"], one["score"]])
            show_count(number, len(items))
    for one in failed:
        answers.note(f"Error: {one['image']}: {one['error']}")
    if as_json:
        answers.show_json({"computation": how.to_json(), "images": rows, "failed": failed, "out": str(out)})
    elif len(rows) <= _SHOWN:
        second = [one["classes"][1]["name"] if len(one["classes"]) > 1 else "" for one in rows]
        answers.show_table(
            ["file", "class", "score", "next"],
            [
                (one["image"], one["classes"][0]["name"], one["classes"][0]["score"], other)
                for one, other in zip(rows, second, strict=True)
            ],
        )
        answers.show(f"classes.jsonl and classes.csv: {out}")
    else:
        counts = Counter(one["classes"][0]["name"] for one in rows)
        answers.show_table(["class", "pictures"], counts.most_common())
        answers.show(f"classes.jsonl and classes.csv: {out}")
    if failed:
        raise typer.Exit(1)
