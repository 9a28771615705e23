"""Pascal VOC XML, in the devkit's layout, in split folders, or as a flat folder of images and XML files."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from flexdetr.classes import ClassError, Classes
from flexdetr.config import nearest
from flexdetr.data.dataset import DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawBox, RawImage, assemble, fraction_like
from flexdetr.data.split_words import split_named
from flexdetr.data.text import TextError, read_text
from flexdetr.data.tree import LocateError, Tree, place_of, unique_ids
from flexdetr.data.unread_files import unused_files
from flexdetr.data.voc_layout import Layout
from flexdetr.data.voc_xml import VocImage, XmlError, voc_image
from flexdetr.runtime.folders import IMAGE_SUFFIXES

CLASS_FILES = ("labels.txt", "classes.txt")


def read(layout: Layout, tree: Tree) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads a VOC data set.

    Class ids are 0, 1, 2 ... in the order of ``labels.txt`` / ``classes.txt`` where there is one, otherwise
    of the sorted names. Coordinates start at 1 and include the last pixel, as the devkit defines them, unless
    some coordinate of the set is 0: then all start at 0 and exclude it. Objects marked difficult are ordinary
    objects.

    Returns:
        the data set without splits, and its splits as the format gives them.
    """
    defects: list[Defect] = []
    notes = list(layout.notes)
    parsed: dict[str, list[VocImage]] = {split: [] for split in layout.sources}
    pictures = _Pictures(tree)
    for split, sources in layout.sources.items():
        found: list[Defect] = []
        for source in sources:
            image = _parse(source, tree, pictures, found)
            if image is not None:
                parsed[split].append(image)
        defects += in_split(found, split)
        tree.use(*sources)
    everything = [image for split in parsed.values() for image in split]
    classes = _classes(tree, everything)
    offset = _first_coordinate(everything, notes)
    difficult = sum(item.difficult for image in everything for item in image.objects)
    if difficult:
        notes.append(f"{difficult} objects are marked difficult; they are kept as ordinary objects")
    splits: dict[str, tuple[Record, ...]] = {}
    for split, described in parsed.items():
        found = []
        paths = pictures.of_all(described, found)
        ids = unique_ids([image.source for image in described], tree.root)
        records = [
            _record(image, path, identifier, classes, offset, found)
            for image, path, identifier in zip(described, paths, ids, strict=True)
            if path is not None
        ]
        tree.use(*(path for path in paths if path is not None))
        splits[split] = tuple(record for record in records if record is not None)
        defects += in_split(found, split)
    written = {split: sum(len(image.objects) for image in described) for split, described in parsed.items()}
    defects = [*unused_files(tree).defects, *defects]
    return Dataset(tree.root, "voc", classes, {}, tuple(defects), tuple(notes), written), splits


class _Pictures:
    """Finds the image of an XML file: the one that it names, otherwise the one of its own name."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._by_place: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for path in tree.files:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_name[path.name.casefold()].append(path)
                self._by_stem[path.stem.casefold()].append(path)
                self._by_place[place_of(path, tree.root)].append(path)

    def of_all(self, images: list[VocImage], defects: list[Defect]) -> list[Path | None]:
        """The image of each XML file; None if none was found, or where several files claim the same."""
        named = [self._named(image) for image in images]
        claims = Counter(path for path in named if isinstance(path, Path))
        found: list[Path | None] = []
        for image, path in zip(images, named, strict=True):
            mine = self.of_stem(image.source)
            if isinstance(path, Path) and (claims[path] == 1 or mine is None or mine == path):
                self._compare(image, path, mine, defects)
                found.append(path)
                continue
            found.append(mine or self._of_other_suffix(image))
            if found[-1] is None:
                reason = (
                    path
                    or f"its image {image.filename or image.source.stem!r} was not found in {self._tree.root}"
                )
                defects.append(Defect("error", image.source, None, str(reason)))
        claims = Counter(path for path in found if path is not None)
        for index, path in enumerate(found):
            if path is not None and claims[path] > 1:
                message = f"its image {path.name} is also that of another XML file; say in <filename> which is meant"
                defects.append(Defect("error", images[index].source, None, message))
                found[index] = None
        return found

    def of_stem(self, source: Path) -> Path | None:
        """The image of an XML file's own name: beside it, in a folder beside it, or the only one of that name."""
        alike = self._by_place.get(place_of(source, self._tree.root), [])
        beside = [path for path in alike if path.parent == source.parent]
        return next(iter(beside or alike), None) or self._only(
            source, self._by_stem.get(source.stem.casefold(), [])
        )

    def _of_other_suffix(self, image: VocImage) -> Path | None:
        """The image whose name without suffix is the named one."""
        stem = Path(image.filename.replace("\\", "/")).stem.casefold()
        return self._only(image.source, self._by_stem.get(stem, []))

    def _named(self, image: VocImage) -> Path | LocateError | None:
        """The image that ``<filename>`` names, or why it is not clear which."""
        name = image.filename.replace("\\", "/").rstrip("/")
        last = name.rpartition("/")[2]
        candidates = self._by_name.get(last.casefold(), [])
        only = self._only(image.source, candidates)
        if only is not None and len(candidates) == 1:
            return only
        place = (*place_of(image.source, self._tree.root)[:-1], Path(last).stem.casefold())
        alike = [path for path in self._by_place.get(place, ()) if path.name.casefold() == last.casefold()]
        if len(alike) == 1:
            return alike[0]
        if not candidates and "%" not in last:
            return None
        try:
            return self._tree.locate(f"{image.folder}/{name}" if image.folder and "/" not in name else name)
        except LocateError as error:
            return error if candidates else None

    def _only(self, source: Path, candidates: list[Path]) -> Path | None:
        """The single candidate, unless it is in the folder of another split than the XML file."""
        if len(candidates) != 1:
            return None
        mine, other = (
            split_named(path.relative_to(self._tree.root).parts[:-1]) for path in (source, candidates[0])
        )
        return candidates[0] if mine is None or other is None or mine == other else None

    def _compare(self, image: VocImage, path: Path, mine: Path | None, defects: list[Defect]) -> None:
        if mine is not None and path.stem.casefold() != mine.stem.casefold():
            message = f"<filename> says {path.name}, which was taken; there is also {mine.name}, of the XML file's name"
            defects.append(Defect("warning", image.source, None, message))


def _parse(source: Path, tree: Tree, pictures: _Pictures, defects: list[Defect]) -> VocImage | None:
    if not tree.has(source):
        image = pictures.of_stem(source)
        what = f"{image.name} has no XML file" if image else "neither XML file nor image exists"
        defects.append(Defect("warning" if image else "error", source, None, f"{what}; left out"))
        return None
    try:
        return voc_image(source)
    except (TextError, XmlError) as error:
        defects.append(Defect("error", source, getattr(error, "line", None), str(error)))
        return None


def _classes(tree: Tree, images: list[VocImage]) -> Classes:
    for name in CLASS_FILES:
        if tree.has(path := tree.root / name):
            try:
                lines = read_text(path).splitlines()
            except TextError as error:
                raise DataError(f"{path} {error}") from error
            tree.use(path)
            try:
                return Classes.of(line.strip() for line in lines if line.strip())
            except ClassError as error:
                raise DataError(f"{path}: {error}") from error
    return Classes.of(sorted({item.name for image in images for item in image.objects}))


def _first_coordinate(images: list[VocImage], notes: list[str]) -> int:
    """1, as the devkit counts, unless the data show that they count from 0."""
    corners = np.array([item.corners for image in images for item in image.objects]).reshape(-1, 4)
    if len(corners) and (corners[:, :2] == 0).any():
        notes.append("some VOC coordinate is 0: all are read as starting at 0")
        return 0
    if any(_equals_yolo(image) for image in images):
        notes.append(
            "VOC coordinates equal those of the YOLO labels beside them: all are read as starting at 0"
        )
        return 0
    return 1


def _equals_yolo(image: VocImage) -> bool:
    """Whether a YOLO label file beside the XML file gives the same corners, counted from 0."""
    labels = image.source.with_suffix(".txt")
    if image.declared is None or not image.objects or not labels.is_file():
        return False
    try:
        rows = [
            [float(word) for word in line.split()] for line in read_text(labels).splitlines() if line.strip()
        ]
    except (TextError, ValueError):
        return False  # some other text
    if [len(row) for row in rows] != [5] * len(image.objects):
        return False
    first = sorted((row[1] - row[3] / 2) * image.declared[0] for row in rows)
    written = sorted(item.corners[0] for item in image.objects)
    return bool(np.allclose(first, written, atol=0.3))


def _record(
    image: VocImage, path: Path, identifier: str, classes: Classes, offset: int, defects: list[Defect]
) -> Record | None:
    boxes = []
    for item in image.objects:
        if item.name not in classes.names:
            message = f"{nearest(item.name, classes.names, 'class')} (the names are those of the class file)"
            defects.append(Defect("error", image.source, item.line, message))
            return None
        if fraction_like([item.corners])[0]:
            message = "its corners look like fractions of the image; pixels are expected"
            defects.append(Defect("error", image.source, item.line, message))
            return None
        x0, y0, x1, y1 = item.corners
        if x1 > x0 and y1 > y0:  # a box of zero area must not gain a pixel and pass for one of 1x1
            x0, y0 = x0 - offset, y0 - offset
        boxes.append(RawBox((x0, y0, x1, y1), classes.names.index(item.name), item.line))
    return assemble(RawImage(path, identifier, image.source, image.declared, boxes=boxes), defects)
