"""A folder of upright pages as the data of an orientation classifier: split first, then seen in all four turns."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from flexdetr.data.dataset import (
    SPLITS,
    DataError,
    Dataset,
    Defect,
    PageView,
    Record,
    UnrecognisedDataError,
    in_split,
)
from flexdetr.data.split_words import SPLIT_FOLDERS, split_named
from flexdetr.runtime.documents import PAGE_SUFFIXES, DocumentError, is_pdf, num_pages, stored_page
from flexdetr.runtime.folders import list_files
from flexdetr.runtime.orientation import ORIENTATIONS

GROUPS: Final = "groups.csv"
_ORIENTATION: Final = 0x0112  # EXIF's tag
_PROBED: Final = 64  # pixels at which pages of PDF files are drawn for their shape


@dataclass(frozen=True)
class _Page:
    """One page."""

    path: Path
    number: int
    of_many: bool
    size: tuple[int, int]


def read(root: str | Path, *, val_fraction: float | None = 0.15, seed: int = 0) -> Dataset:
    """Reads upright pages: pictures and PDF files, in folders ``train``, ``val`` and ``test`` or in no such order.

    Without such folders pages are divided into training, validation and test pages. Whatever is divided is divided by
    documents: the pages of one file stay together, and where a ``groups.csv`` (columns ``file`` and one more) lies in
    the folder, so do the files that it names with the same value. Only then is each page turned: a split holds every
    page of it four times, as class 0, 90, 180 and 270 degrees clockwise.

    Pages count as they are stored: EXIF's orientation, which is often what is wrong with them, is not applied, and
    pages that have one are named in a warning.

    Args:
        root: the folder.
        val_fraction: share of the pages taken for validation, and for a test if nothing is divided yet; None leaves
            the splits as they are.
        seed: decides which.

    Returns:
        the data set; files that cannot be read are among its ``defects``, not in its splits.

    Raises:
        UnrecognisedDataError: if no page is found.
        DataError: if ``groups.csv`` cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise UnrecognisedDataError(
            f"{root} is not a folder; orientation is learned from a folder of upright pages"
        )
    folders = _split_folders(root)
    found: dict[str, list[_Page]] = {}
    defects: list[Defect] = []
    for split, places in folders.items():
        wrong: list[Defect] = []
        found[split] = [page for place in places for page in _pages(place, wrong)]
        defects += in_split(wrong, split) if split else wrong
    if not any(found.values()):
        reasons = "".join(f"\n  {defect}" for defect in defects[:5])
        raise UnrecognisedDataError(
            f"{root} holds no page that can be read: no pictures and no PDF files{reasons}"
        )
    groups = _groups(root, found, defects)
    splits, notes = _divided(found, groups, val_fraction, seed)
    records = {split: tuple(_turned(pages, root)) for split, pages in splits.items() if pages}
    written = {split: len(those) for split, those in records.items()}
    ordered = {split: records[split] for split in SPLITS if split in records}
    return Dataset(root, "pages", ORIENTATIONS, ordered, tuple(defects), tuple(notes), written)


def _split_folders(root: Path) -> dict[str, list[Path]]:
    """The folders of each split; all of the root under "" if there are none."""
    try:
        inside = sorted(folder for folder in root.iterdir() if folder.is_dir())
    except OSError as error:
        raise UnrecognisedDataError(f"{root} cannot be opened: {error.strerror or error}") from error
    splits: dict[str, list[Path]] = {}
    for folder in inside:
        if folder.name.lower() in SPLIT_FOLDERS:
            splits.setdefault(str(split_named([folder.name])), []).append(folder)
    return splits or {"": [root]}


def _pages(folder: Path, defects: list[Defect]) -> list[_Page]:
    """Every page below a folder; what cannot be read becomes a defect."""
    listing = list_files(folder)
    defects += [Defect("error", path, None, reason) for path, reason in listing.unread]
    pages: list[_Page] = []
    turned: list[Path] = []
    for path in listing.files:
        if path.suffix.lower() not in PAGE_SUFFIXES:
            continue
        try:
            count = num_pages(path)
            if is_pdf(path):
                sizes = [stored_page(path, number, short_side=_PROBED).size for number in range(count)]
            else:
                size, orientation = _probed(path)
                sizes = [size] * count
                if orientation != 1:
                    turned.append(path)
        except DocumentError as error:
            defects.append(Defect("error", path, None, str(error).removeprefix(f"{path}: ")))
            continue
        pages += [_Page(path, number, count > 1, size) for number, size in enumerate(sizes)]
    if turned:
        more = f" (and {len(turned) - 1} others)" if len(turned) > 1 else ""
        message = (
            f"has an EXIF orientation{more}, which is not applied: where the page is upright only with it, save it so "
            "(jhead -autorot, exiftran -a)"
        )
        defects.append(Defect("warning", turned[0], None, message))
    return pages


def _probed(path: Path) -> tuple[tuple[int, int], int]:
    """(width, height) as stored, and EXIF's orientation, by the header alone."""
    try:
        with Image.open(path) as image:
            return image.size, int(image.getexif().get(_ORIENTATION, 1) or 1) if image.format == "JPEG" else 1
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from error


def _groups(root: Path, found: Mapping[str, Iterable[_Page]], defects: list[Defect]) -> dict[Path, str]:
    """The document that each file belongs to, of those that a ``groups.csv`` names."""
    groups: dict[Path, str] = {}
    files = {page.path for pages in found.values() for page in pages}
    for table in (root / GROUPS,) if (root / GROUPS).is_file() else ():
        try:
            with table.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                if len(header) < 2 or header[0].strip().lower() != "file":
                    raise DataError(
                        f"{table}:1: the first line must be `file` and the name of the groups, like file,document; got "
                        f"{','.join(header) or 'nothing'}"
                    )
                for row in rows:
                    if len(row) < 2:
                        if row:
                            raise DataError(
                                f"{table}:{rows.line_num}: a file without a group: {','.join(row)}"
                            )
                        continue
                    path = root / row[0].strip()
                    if path not in files:
                        message = f"{row[0]} is not one of the pages"
                        defects.append(Defect("warning", table, rows.line_num, message))
                    groups[path] = row[1].strip()
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table} cannot be read: {error}") from error
    return groups


def _divided(
    found: dict[str, list[_Page]], groups: Mapping[Path, str], fraction: float | None, seed: int
) -> tuple[dict[str, list[_Page]], list[str]]:
    """The pages of each split, and what to say about it."""
    if "" in found:
        if fraction is None:
            return {"train": found[""]}, []
        named: tuple[str, ...] = ("test", "val")
        splits = {"train": found[""]}
    elif fraction is not None and "train" in found and "val" not in found:
        named = ("val",)
        splits = dict(found)
    else:
        return dict(found), []
    units: dict[str, list[_Page]] = {}
    for page in splits["train"]:
        group = groups.get(page.path)
        units.setdefault(f"group {group}" if group is not None else f"file {page.path}", []).append(page)
    order = [list(units)[place] for place in np.random.default_rng(seed).permutation(len(units))]
    total = sum(map(len, units.values()))
    if len(order) <= len(named):
        return splits, [
            f"{len(order)} documents are too few to take pages for {' and '.join(named)} from them"
        ]
    taken: list[str] = []
    for split in named:
        wanted = max(1, round(fraction * total))
        own: list[_Page] = []
        while len(own) < wanted and len(order) > len(named) - len(taken):
            own += units[order.pop()]
        splits[split] = own
        taken.append(split)
    splits["train"] = [page for unit in order for page in units[unit]]
    counts = " and ".join(f"{len(splits[split])} for {split}" for split in named)
    notes = [f"{len(units)} documents, divided before pages are turned: {counts} (seed {seed})"]
    return splits, notes


def _turned(pages: Iterable[_Page], root: Path) -> Iterable[Record]:
    """Four records of each page."""
    for page in pages:
        place = page.path.relative_to(root).as_posix()
        name = f"{place}#{page.number + 1}" if page.of_many else place
        for turn, angle in enumerate(ORIENTATIONS.ids):
            width, height = page.size if turn % 2 == 0 else page.size[::-1]
            yield Record(
                page.path,
                f"{name}@{angle}",
                width,
                height,
                np.array([[0, 0, width, height]], np.float32),
                np.array([turn], np.int64),
                np.zeros(1, np.bool_),
                np.array([width * height], np.float32),
                view=PageView(turn, page.number),
            )
