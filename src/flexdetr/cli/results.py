"""What ``predict`` leaves in its folder: a line for each picture as it goes, and files made of the lines at the end."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flexdetr.cli import answers
from flexdetr.cli.film import Film
from flexdetr.cli.names import file_name, stem_of
from flexdetr.cli.pre_annotations import FORMS
from flexdetr.cli.pre_annotations import remove_former as remove_labels
from flexdetr.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from flexdetr.classes import Classes
    from flexdetr.runtime.computation import Computation
    from flexdetr.runtime.detections import Detections
    from flexdetr.runtime.sources import Picture

LINES: Final = "detections.jsonl"
DOCUMENT: Final = "detections.json"
RESULTS: Final = "results.json"
TABLE: Final = "detections.csv"
PARQUET: Final = "detections.parquet"
EXPLAINED: Final = "explained"

# What copies are written as, and the longest side that a format has room for; others become JPEG, or PNG beyond it.
_LONGEST: Final[Mapping[str, int]] = {
    ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".png": 2**31 - 1, ".bmp": 2**31 - 1,
}  # fmt: skip
_DRAFT: Final = ".annotated.part"
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class ResultsError(Exception):
    """Results that cannot be written; the message says where, and what is kept."""


class Known(NamedTuple):
    """The data set that pictures belong to.

    Attributes:
        images: ids by the pictures' resolved paths.
        categories: ids by class name.
    """

    images: Mapping[Path, int | str]
    categories: Mapping[str, int]


def known_images(data: Path) -> Known:
    """The ids of a data set's pictures and classes.

    Raises:
        DataError: if it cannot be used.
    """
    from flexdetr.data.detect import read

    dataset = read(data)
    images = {record.path.resolve(): record.image_id for split in dataset.splits.values() for record in split}
    return Known(images, dict(zip(dataset.classes.names, dataset.classes.ids, strict=True)))


def make_folder(out: Path) -> bool:
    """Make the folder of results, and see whether it can be written.

    Returns:
        Whether it is new.

    Raises:
        UsageError: if there is a file of this name.
        OSError: if the system refuses.
    """
    new = not out.exists()
    if not new and not out.is_dir():
        raise answers.UsageError(f"--out {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        return new


class Results:
    """What was found so far. Of a picture nothing stays in memory but its file's name.

    Args:
        out: the folder; what an earlier call left in it, and nothing else, is removed.
        classes: of the detector.
        how: what computes.
        known: the data set that the pictures belong to; None if there is none.

    Attributes:
        pictures: how many were answered.
        failed: how many could not be read, or written.
        unknown: how many are not of the data set.
        counts: objects by name.

    Raises:
        UsageError: if the data set lacks a class of the detector.
        ResultsError, OSError: if the folder cannot be written.
    """

    def __init__(self, out: Path, classes: Classes, how: Computation, known: Known | None = None) -> None:
        self.out, self.classes, self.how, self.known = out, classes, how, known
        self.pictures, self.failed, self.unknown = 0, 0, 0
        self.counts: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._film: Film | None = None
        missing = [] if known is None else [name for name in classes.names if name not in known.categories]
        if missing:
            raise answers.UsageError(f"--data has no class {', '.join(map(repr, missing))}, which FILE finds")
        _remove_former(out)
        with self._writing():
            (out / LINES).write_bytes(b"")

    def add(
        self, picture: Picture, found: Detections, *, draw: bool = True, film: bool = False
    ) -> dict[str, Any]:
        """Draw what was found, and write it down.

        Args:
            picture: its file's name, of a film with the number of the frame behind a ``#``, and its pixels.
            found: its objects.
            draw: write an annotated copy.
            film: write frames that have a rate into an annotated film, instead of a copy each.

        Raises:
            ResultsError: if the disk is full.
        """
        name, image = picture.name, picture.image
        line: dict[str, Any] = {"file": name, "picture": None, "size": list(image.shape[:2])}
        if picture.frame is not None:
            line |= {"frame": picture.frame, "seconds": picture.seconds}
        line["objects"] = found.to_json()
        if film and draw and picture.rate is not None:
            self._add_to_film(line, picture, found)
        elif draw:
            self._add_copy(line, picture, found)
        else:
            with self._writing():
                self._write_line(line)
        self.pictures += 1
        self.counts.update(found.names)
        return line

    def _add_copy(self, line: dict[str, Any], picture: Picture, found: Detections) -> None:
        """Write the line, and the annotated copy that it names: both or, where the copy fails, the line alone."""
        name, image = picture.name, picture.image
        copy = self.out / self._free_name(name, max(image.shape[:2]))
        try:
            self._draw(image, found, copy.suffix)
        except OSError as error:
            if error.errno in _FULL:
                (self.out / _DRAFT).unlink(missing_ok=True)  # a line needs less room than a picture
                with self._writing():
                    self._write_line(line)
                self.pictures += 1
            self._refuse_full(error)
            self.failed += 1
            answers.note(f"Error: {name}: the annotated copy {copy} cannot be written: {error}")
        else:
            line["picture"] = str(copy)
        with self._writing():
            self._write_line(line)
            if line["picture"] is not None:
                (self.out / _DRAFT).replace(copy)

    def _add_to_film(self, line: dict[str, Any], picture: Picture, found: Detections) -> None:
        from flexdetr.draw import draw_detections

        of = picture.name.rpartition("#")[0]
        if self._film is None or not self._film.continues(of, picture.image.shape):
            self._end_film()
            self._film = Film(self.out / self._free_name(of, 0, suffix=".mp4"), of, picture)
            if self._film.opened:
                answers.note(f"{of}: drawn into {self._film.path}, whose sound is not kept")
            else:
                self.failed += 1
                answers.note(f"Error: {of}: the annotated film {self._film.path} cannot be written")
        if self._film.opened:
            self._film.add(draw_detections(picture.image, found))
            line["picture"] = str(self._film.path)
        with self._writing():
            self._write_line(line)

    def _end_film(self) -> None:
        if self._film is not None:
            self._film.close()
            self._film = None

    def add_explained(self, picture: str, drawn: Image) -> None:
        """Write a picture of where the queries looked, under the annotated one's name.

        Raises:
            ResultsError: if the disk is full.
        """
        place = self.out / EXPLAINED / Path(picture).name
        with self._writing():
            place.parent.mkdir(exist_ok=True)
            drawn.save(place, quality=92)

    def fail(self, name: str, reason: str) -> None:
        """Write down a file that could not be read.

        Raises:
            ResultsError: if the disk is full.
        """
        answers.note(f"Error: {reason}")
        self.failed += 1
        with self._writing():
            self._write_line({"file": name, "error": reason})

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was written down, picture by picture."""
        return read_lines(self.out / LINES)

    def finish(self, formats: Sequence[str] = ()) -> None:
        """``detections.json`` (COCO with scores), ``results.json`` (COCO's result list) and ``detections.csv``.

        Args:
            formats: besides "parquet", or labels to correct in a form of ``pre_annotations.FORMS``.

        Raises:
            ResultsError: if the disk is full.
        """
        self._end_film()
        self.unknown = sum(self._image_id(0, line) is None for line in self._answered())
        info = {"description": "found by FlexDETR", "computation": self.how.to_json()}
        with self._writing(), _replacing(self.out / DOCUMENT) as write:
            document = {
                "info": info,
                "images": self._images(),
                "annotations": self._annotations(),
                "categories": self._categories(),
            }
            write_json(write, document)
        with self._writing(), _replacing(self.out / RESULTS) as write:
            write_list(write, (row for row, _ in self._rows()))
        with self._writing(), _replacing(self.out / TABLE) as write:
            self._write_table(write)
        for form in (one for one in formats if one in FORMS):
            with self._writing():
                answers.note(f"labels to correct: {FORMS[form](self.out, self.lines(), self.classes)}")
        if "parquet" in formats:
            from flexdetr.runtime.parquet import write as write_parquet

            with self._writing(), replacing(self.out / PARQUET) as draft:
                write_parquet(draft, self.lines())

    def _answered(self) -> Iterator[dict[str, Any]]:
        return (line for line in self.lines() if "objects" in line)

    def _image_id(self, number: int, line: Mapping[str, Any]) -> int | str | None:
        if self.known is None:
            return number
        return self.known.images.get(Path(line["file"]).resolve())

    def _images(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self._answered(), start=1):
            image_id = self._image_id(number, line)
            if image_id is not None:
                height, width = line["size"]
                yield {"id": image_id, "file_name": line["file"], "height": height, "width": width}

    def _rows(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Rows of COCO's result list, each with its area."""
        for number, line in enumerate(self._answered(), start=1):
            image_id = self._image_id(number, line)
            for one in line["objects"] if image_id is not None else ():
                left, top, right, bottom = one["box_xyxy"]
                box = [left, top, round(right - left, 3), round(bottom - top, 3)]
                label = one["label"] if self.known is None else self.known.categories[one["name"]]
                row = {"image_id": image_id, "category_id": label, "bbox": box, "score": one["score"]}
                yield row, box[2] * box[3]

    def _annotations(self) -> Iterator[dict[str, Any]]:
        for number, (row, area) in enumerate(self._rows(), start=1):
            yield {"id": number, **row, "area": area, "iscrowd": 0}

    def _categories(self) -> list[dict[str, Any]]:
        if self.known is None:
            return [dict(row) for row in self.classes.to_json()]
        return [{"id": number, "name": name} for name, number in self.known.categories.items()]

    def _write_table(self, write: Callable[[str], object]) -> None:
        from flexdetr.runtime.detections import CSV_HEADER

        writer = csv.writer(_Writer(write))
        writer.writerow(CSV_HEADER)
        for line in self._answered():
            for one in line["objects"]:
                writer.writerow(
                    (_printable(line["file"]), one["name"], one["label"], one["score"], *one["box_xyxy"])
                )

    def _draw(self, image: NDArray[np.uint8], found: Detections, suffix: str) -> None:
        from PIL import Image

        from flexdetr.draw import draw_detections

        form = Image.registered_extensions()[suffix]
        Image.fromarray(draw_detections(image, found)).save(self.out / _DRAFT, form, quality=92)

    def _write_line(self, line: Mapping[str, Any]) -> None:
        with (self.out / LINES).open("ab") as file:
            file.write(_json(line).encode() + b"\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Answers a full disk in a sentence."""
        try:
            yield
        except OSError as error:
            self._refuse_full(error)
            raise

    def _refuse_full(self, error: OSError) -> None:
        if error.errno in _FULL:
            raise ResultsError(
                f"{self.out}: {error.strerror}; what was found in {self.pictures} pictures is kept in "
                f"{self.out / LINES}: make room, or give another --out"
            ) from error

    def _free_name(self, name: str, longest: int, suffix: str | None = None) -> str:
        """A file name that nothing in the folder has: folders may hold pictures of the same name.

        ``name`` is a ``Picture``'s, ``longest`` its longer side in pixels; None keeps its suffix if copies have it.
        """
        name = file_name(name)
        file, stem = name.rpartition("#")[0], stem_of(name)
        if suffix is None:
            suffix = ".jpg" if file else Path(name).suffix.lower()
            if suffix not in _LONGEST:
                suffix = ".jpg"
            if longest > _LONGEST[suffix]:
                suffix = ".png"
        key = f"{stem}{suffix}".lower()
        number = self._numbers.get(key, 0) + 1
        while os.path.lexists(
            self.out / (free := f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        ):
            number += 1
        if not file:  # frames have numbers of their own, and of a camera there are ever more
            self._numbers[key] = number
        return free


class _Writer:
    """A file as ``csv.writer`` wants it."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write


@contextmanager
def _replacing(path: Path) -> Iterator[Callable[[str], object]]:
    """Write a text beside its place, and move it there when it is whole."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        yield file.write


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``detections.jsonl``; a last one that was cut off by a kill or a full disk is passed over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if not text.endswith("\n"):
                return
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def write_json(write: Callable[[str], object], document: Mapping[str, Any]) -> None:
    """A JSON object, of which iterators are written as lists without holding them.

    Args:
        write: takes pieces of text.
        document: by key, values as ``json.dumps`` takes them, or iterators of such.
    """
    for place, (key, value) in enumerate(document.items()):
        write(f"{',' if place else '{'}\n{_json(key)}: ")
        if isinstance(value, Iterator):
            write_list(write, value, end="")
        else:
            write(_json(value))
    write("\n}\n")


def write_list(write: Callable[[str], object], values: Iterator[Any], *, end: str = "\n") -> None:
    """A JSON list, written value by value."""
    write("[")
    for place, value in enumerate(values):
        write(f"{',' if place else ''}\n{_json(value)}")
    write(f"]{end}")


def _json(value: object) -> str:
    """JSON of a value; bytes of file names that are not UTF-8 as escapes, which ``os.fsencode`` takes back."""
    return _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _remove_former(out: Path) -> None:
    """Remove what an earlier call wrote: its pictures, by its own list, and its files."""
    lines = out / LINES
    if lines.is_file():
        for line in read_lines(lines):
            name = Path(str(line.get("picture") or "")).name
            if name and (out / name).is_file():
                (out / name).unlink()
            if name:
                (out / EXPLAINED / name).unlink(missing_ok=True)
        remove_labels(out, read_lines(lines))
    for name in (LINES, DOCUMENT, RESULTS, TABLE, PARQUET, _DRAFT):
        (out / name).unlink(missing_ok=True)
