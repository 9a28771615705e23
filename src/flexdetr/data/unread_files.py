"""What lies in a data set and was not read: counted and named, so that nothing is left out without a word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from flexdetr.config_values import some_of
from flexdetr.data.dataset import Defect
from flexdetr.data.tree import Tree, place_of
from flexdetr.data.values import number
from flexdetr.runtime.folders import IMAGE_SUFFIXES

_SHOWN = 3
_FIRST = 4096  # bytes of a text, enough to see whether it holds labels
# Descriptions, programs and caches: no label and no picture is lost with them.
_BESIDE = frozenset(
    (
        "", ".md", ".rst", ".txt", ".py", ".ipynb", ".sh", ".bat", ".log", ".cache", ".html", ".css", ".js", ".names",
        ".data", ".cfg", ".toml", ".ini", ".lock", ".cff", ".bib", ".tmp", ".bak", ".pdf",
    )
)  # fmt: skip
_GROUPS = {
    "image": "images are in no split, or without annotation",
    "label": "label files belong to images that are in no split",
    "stray": "label files belong to no image",
    "xml": "XML files were not read",
    "json": "JSON files were not read",
    "yaml": "YAML files were not read",
    "other": "files of these kinds were not read",
}
_KINDS = {".xml": "xml", ".json": "json", ".jsonl": "json", ".yaml": "yaml", ".yml": "yaml"}


class Unused(NamedTuple):
    """What was not read: a warning for each kind, and the labels in label files that belong to no image."""

    defects: list[Defect]
    strays: int


def unused_files(tree: Tree) -> Unused:
    """A warning for each kind of files that were not read.

    The reader has told the ``tree`` what it used.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    pictures = {place_of(path, tree.root) for path in tree.files if path.suffix.lower() in IMAGE_SUFFIXES}
    lost = 0
    for path in tree.unused():
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            groups["image"].append(path)
        elif suffix == ".txt" and (labels := _labels(path)):
            stray = place_of(path, tree.root) not in pictures
            groups["stray" if stray else "label"].append(path)
            lost += labels if stray else 0
        elif suffix in _KINDS:
            groups[_KINDS[suffix]].append(path)
        elif suffix not in _BESIDE:
            groups["other"].append(path)
    found = [_warning(tree, kind, paths) for kind in _GROUPS if (paths := groups.get(kind))]
    found += [
        Defect("warning", path, None, f"was not read: {reason}") for path, reason in tree.listing.unread
    ]
    return Unused(found, lost)


def _warning(tree: Tree, kind: str, paths: Sequence[Path]) -> Defect:
    if kind == "other":
        counts = Counter(path.suffix.lower() for path in paths)
        named = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(counts.items()))
    else:
        named = some_of([path.relative_to(tree.root).as_posix() for path in paths], _SHOWN)
    what = _GROUPS[kind]
    if len(paths) == 1:
        what = what.replace("files", "file", 1).replace("images are", "image is").replace("were", "was", 1)
        what = what.replace("belong ", "belongs ")
    return Defect(
        "warning", paths[0] if len(paths) == 1 else tree.root, None, f"{len(paths)} {what}: {named}"
    )


def _labels(path: Path) -> int:
    """How many lines of a text file look like YOLO labels; of a long one those at its beginning."""
    try:
        with path.open("rb") as file:
            lines = file.read(_FIRST).decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return 0
    rows = [line.split() for line in islice(lines, 1000) if line.strip()]
    return sum(len(row) >= 5 and all(number(word) is not None for word in row) for row in rows)
