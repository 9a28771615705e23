"""What was found as labels to correct: YOLO text files, a Label Studio task list, a CVAT document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from flexdetr.classes import Classes
from flexdetr.cli import answers
from flexdetr.cli.names import file_name, stem_of
from flexdetr.runtime.annotation_tools import cvat, label_studio

Lines = Iterable[Mapping[str, Any]]
YOLO, LABEL_STUDIO, CVAT = "yolo", "label-studio.json", "cvat.xml"


def write_yolo(out: Path, lines: Lines, classes: Classes) -> Path:
    """``yolo/labels/NAME.txt`` with a line an object, ``yolo/classes.txt`` and ``yolo/data.yaml``.

    A file is called like the annotated copy of its picture, which is called like the picture itself, unless pictures of
    several folders share a name; a frame's like ``film-000012``. A picture without objects has an empty
    file. Scores are left out: tools take five columns.
    """
    folder = out / YOLO / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "classes.txt").write_text(
        "".join(f"{name}\n" for name in classes.names), encoding="utf-8"
    )
    names = {"names": dict(enumerate(classes.names))}
    (folder.parent / "data.yaml").write_text(
        yaml.safe_dump(names, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    index = {number: place for place, number in enumerate(classes.ids)}
    for name, line in _named(lines):
        height, width = line["size"]
        rows = []
        for one in line["objects"]:
            x0, y0, x1, y1 = one["box_xyxy"]
            box = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            rows.append(" ".join([str(index[one["label"]]), *(f"{side:.6f}" for side in box)]))
        (folder / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return folder.parent


def write_label_studio(out: Path, lines: Lines, classes: Classes) -> Path:  # noqa: ARG001 - as the others
    """``label-studio.json``, a list of tasks with predictions; a picture's address is its path as it was given."""
    path = out / LABEL_STUDIO
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("[")
        for number, (_, line) in enumerate(_named(lines)):
            height, width = line["size"]
            task = label_studio(line["objects"], line["file"], (height, width))
            file.write((",\n" if number else "\n") + json.dumps(task))
        file.write("\n]\n")
    return path


def write_cvat(out: Path, lines: Lines, classes: Classes) -> Path:
    """``cvat.xml``, "CVAT for images 1.1"; pictures have their files' names, or their paths where names repeat."""
    path = out / CVAT
    read = [line for _, line in _named(lines)]
    times = Counter(Path(line["file"]).name for line in read)
    names = (
        name if times[name := Path(line["file"]).name] == 1 else Path(line["file"]).as_posix()
        for line in read
    )
    pictures = [(name, tuple(line["size"]), line["objects"]) for name, line in zip(names, read, strict=True)]
    path.write_text(cvat(pictures, classes.names), encoding="utf-8")
    return path


# Of ``--format``: detections.json with results.json, detections.csv and detections.jsonl, which need no asking.
ALWAYS: Final = ("coco", "csv", "jsonl")
FORMS: Final[Mapping[str, Callable[[Path, Lines, Classes], Path]]] = {
    "yolo": write_yolo,
    "label-studio": write_label_studio,
    "cvat": write_cvat,
}


def chosen(names: Sequence[str]) -> list[str]:
    """What ``--format`` asks for, each once: of ``FORMS``, "parquet", or what is written anyway.

    Raises:
        UsageError: if there is no such format.
        ModuleNotFoundError: if pyarrow is not installed.
    """
    from flexdetr.config import nearest

    known = (*ALWAYS, "parquet", *FORMS)
    for name in names:
        if name not in known:
            raise answers.UsageError(nearest(name, known, "--format"))
    if "parquet" in names:
        import pyarrow  # noqa: F401 - missed before any work
    return list(dict.fromkeys(names))


def remove_former(out: Path, lines: Lines) -> None:
    """Remove what these functions wrote of a former call's lines."""
    for name, _ in _named(lines):
        (out / YOLO / "labels" / f"{name}.txt").unlink(missing_ok=True)
    for place in (f"{YOLO}/classes.txt", f"{YOLO}/data.yaml", LABEL_STUDIO, CVAT):
        (out / place).unlink(missing_ok=True)


def _named(lines: Lines) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of pictures that were read, each with a name of its own."""
    taken: set[str] = set()
    for line in lines:
        if "objects" not in line:
            continue
        drawn = Path(line.get("picture") or "")
        # All frames of a film share one copy.
        stem = stem_of(file_name(line["file"])) if drawn.suffix in ("", ".mp4") else drawn.stem
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        yield name, line
