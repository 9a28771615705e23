"""Pascal VOC XML, in the devkit's layout, in split folders, or as a flat folder of images and XML files."""

from __future__ import annotations

import xml.parsers.expat as expat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flexdetr.classes import Classes
from flexdetr.config import nearest
from flexdetr.data.dataset import SPLITS, DataError, Dataset, Defect, Record, in_split
from flexdetr.data.records import RawBox, RawImage, assemble
from flexdetr.data.text import TextError, read_text
from flexdetr.runtime.folders import IMAGE_SUFFIXES

ANNOTATION_FOLDERS = ("Annotations", "annotations", "xmls", "labels")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
CLASS_FILES = ("labels.txt", "classes.txt")
SPLIT_FOLDERS = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}


class XmlError(ValueError):
    """An XML file that is no VOC annotation; holds the line beside the message."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Node:
    """An XML element with the line that it starts on."""

    tag: str
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, tag: str) -> Node | None:
        """The first child of this name."""
        return next((node for node in self.children if node.tag == tag), None)

    def value(self, tag: str) -> str | None:
        """The stripped text of the first child of this name."""
        node = self.child(tag)
        return None if node is None else node.text.strip()


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``: its name, its corner coordinates as written, and its line."""

    name: str
    corners: tuple[float, float, float, float]
    line: int
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """One XML file."""

    source: Path
    filename: str
    declared: tuple[int, int] | None
    objects: list[VocObject]


@dataclass(frozen=True)
class Layout:
    """Where a VOC data set keeps its files: by split the XML files, and folders to look for images in."""

    sources: dict[str, list[Path]]
    image_folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def find(root: Path) -> Layout | None:
    """The layout of a VOC data set in ``root``; None where there is none."""
    annotations = next((root / name for name in ANNOTATION_FOLDERS if _has_xml(root / name)), None)
    if annotations is not None:
        images = tuple(root / name for name in IMAGE_FOLDERS if (root / name).is_dir())
        return _devkit(root, annotations, (*images, root))
    splits: dict[str, list[Path]] = {}
    folders: list[Path] = []
    for split, names in SPLIT_FOLDERS.items():
        for name in names:
            folder = next(
                (path for path in (root / name / "Annotations", root / name) if _has_xml(path)), None
            )
            if folder is not None:
                splits.setdefault(split, []).extend(sorted(folder.glob("*.xml")))
                folders += [folder, *(root / name / images for images in IMAGE_FOLDERS)]
    if splits:
        return Layout(splits, tuple(folders))
    if _has_xml(root):
        return Layout({"train": sorted(root.glob("*.xml"))}, (root,))
    devkits = [path for path in sorted(root.glob("VOC*")) if path.is_dir()]
    return find(devkits[0]) if len(devkits) == 1 else None


def read(root: Path, layout: Layout) -> tuple[Dataset, dict[str, tuple[Record, ...]]]:
    """Reads a VOC data set.

    Class ids are 0, 1, 2 ... in the order of ``labels.txt`` / ``classes.txt`` where there is one, otherwise
    of the sorted names. Coordinates start at 1 and include the last pixel, as the devkit defines them, unless
    some coordinate of the set is 0: then all start at 0 and exclude it. Objects marked difficult are ordinary
    objects.
    """
    defects: list[Defect] = []
    notes = list(layout.notes)
    parsed: dict[str, list[VocImage]] = {split: [] for split in layout.sources}
    images = _Images(layout.image_folders)
    for split, sources in layout.sources.items():
        found: list[Defect] = []
        for source in sources:
            image = _parse(source, images, found)
            if image is not None:
                parsed[split].append(image)
        defects += in_split(found, split)
    everything = [image for split in parsed.values() for image in split]
    classes = _classes(root, everything)
    offset = _first_coordinate(everything, notes)
    difficult = sum(item.difficult for image in everything for item in image.objects)
    if difficult:
        notes.append(f"{difficult} objects are marked difficult; they are kept as ordinary objects")
    splits: dict[str, tuple[Record, ...]] = {}
    for split, described in parsed.items():
        found = []
        records = (_record(image, images, classes, offset, found) for image in described)
        splits[split] = tuple(record for record in records if record is not None)
        defects += in_split(found, split)
    _note_unlabelled(layout, images, defects)
    written = {split: sum(len(image.objects) for image in described) for split, described in parsed.items()}
    return Dataset(root, "voc", classes, {}, tuple(defects), tuple(notes), written), splits


def parse_xml(text: str) -> Node:
    """An XML document as nodes that know their lines.

    Raises:
        XmlError: where it is malformed, or declares entities (which could expand without bound or read other
            files).
    """
    parser = expat.ParserCreate(
        encoding="utf-8"
    )  # overrides what the declaration states: the text is decoded
    root = Node("", 0)
    stack = [root]

    def start(tag: str, _attributes: dict[str, str]) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_tag: str) -> None:
        stack.pop()

    def data(content: str) -> None:
        stack[-1].text += content

    def entity(*_declaration: object) -> None:
        raise XmlError(
            "declares entities, which are refused for safety; remove them", parser.CurrentLineNumber
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise XmlError(f"is no well-formed XML: {expat.ErrorString(error.code)}", error.lineno) from error
    return root.children[0]


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*.xml"), None) is not None


def _devkit(root: Path, annotations: Path, image_folders: tuple[Path, ...]) -> Layout:
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in (*SPLITS, "trainval")}
    stems = {split: _stems(path) for split, path in lists.items() if path.is_file()}
    notes: list[str] = []
    if "trainval" in stems and "train" not in stems:
        held_out = {*stems.get("val", ()), *stems.get("test", ())}
        stems["train"] = [stem for stem in stems["trainval"] if stem not in held_out]
        notes.append("ImageSets/Main has trainval.txt and no train.txt: the training split was taken from it")
    stems.pop("trainval", None)
    if not stems:
        return Layout({"train": sorted(annotations.glob("*.xml"))}, image_folders)
    listed = {stem for names in stems.values() for stem in names}
    unused = sum(path.stem not in listed for path in annotations.glob("*.xml"))
    if unused:
        notes.append(f"{unused} XML files are in no list of ImageSets/Main and were left out")
    sources = {split: [annotations / f"{stem}.xml" for stem in names] for split, names in stems.items()}
    return Layout(sources, image_folders, tuple(notes))


def _stems(path: Path) -> list[str]:
    """The first word of each line; some lists give a -1/1 flag after it."""
    try:
        lines = read_text(path).splitlines()
    except TextError as error:
        raise DataError(f"{path} {error}") from error
    return [line.split()[0] for line in lines if line.strip()]


class _Images:
    """The images of a data set by their stems, those nearest to an XML file first."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.by_folder: dict[Path, dict[str, Path]] = {}
        for folder in folders:
            if folder.is_dir():
                paths = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
                self.by_folder[folder] = {path.stem: path for path in paths}

    def of(self, source: Path, stem: str) -> Path | None:
        """The image of this stem: beside the XML file, in a folder beside it, or anywhere."""
        near = (source.parent, source.parent.parent)
        for wanted in (near[:1], near, ()):
            for folder, paths in self.by_folder.items():
                if stem in paths and (not wanted or folder in wanted or folder.parent in wanted):
                    return paths[stem]
        return None

    def everything(self) -> list[Path]:
        """All images, by name."""
        return sorted(path for paths in self.by_folder.values() for path in paths.values())


def _parse(source: Path, images: _Images, defects: list[Defect]) -> VocImage | None:
    if not source.is_file():
        image = images.of(source, source.stem)
        what = f"{image.name} has no XML file" if image else "neither XML file nor image exists"
        defects.append(Defect("warning" if image else "error", source, None, f"{what}; left out"))
        return None
    try:
        return _voc_image(source, parse_xml(read_text(source)))
    except (TextError, XmlError) as error:
        defects.append(Defect("error", source, getattr(error, "line", None), str(error)))
        return None


def _voc_image(source: Path, document: Node) -> VocImage:
    if document.tag != "annotation":
        raise XmlError(f"the root element is <{document.tag}>, expected <annotation>", document.line)
    size = document.child("size")
    declared = None
    if size is not None:
        width, height = (_number(size, tag) for tag in ("width", "height"))
        declared = (int(width), int(height)) if width > 0 and height > 0 else None  # some tools write 0
    objects = [_voc_object(node) for node in document.children if node.tag == "object"]
    return VocImage(source, document.value("filename") or "", declared, objects)


def _voc_object(node: Node) -> VocObject:
    name = node.value("name")
    box = node.child("bndbox")
    if not name or box is None:
        raise XmlError("an <object> needs a <name> and a <bndbox>", node.line)
    x0, y0, x1, y1 = (_number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(name, (x0, y0, x1, y1), box.line, node.value("difficult") == "1")


def _number(node: Node, tag: str) -> float:
    text = node.value(tag)
    try:
        return float(text or "")
    except ValueError:
        raise XmlError(f"<{tag}> of <{node.tag}> is {text!r}, expected a number", node.line) from None


def _classes(root: Path, images: list[VocImage]) -> Classes:
    for name in CLASS_FILES:
        if (root / name).is_file():
            try:
                lines = read_text(root / name).splitlines()
            except TextError as error:
                raise DataError(f"{root / name} {error}") from error
            return Classes.of(line.strip() for line in lines if line.strip())
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
    image: VocImage, images: _Images, classes: Classes, offset: int, defects: list[Defect]
) -> Record | None:
    stems = (image.source.stem, Path(image.filename.replace("\\", "/")).stem)
    path = next((path for stem in stems if (path := images.of(image.source, stem)) is not None), None)
    if path is None:
        name = image.filename or image.source.stem
        defects.append(Defect("error", image.source, None, f"its image {name!r} was not found"))
        return None
    boxes = []
    for item in image.objects:
        if item.name not in classes.names:
            message = f"{nearest(item.name, classes.names, 'class')} (the names are those of the class file)"
            defects.append(Defect("error", image.source, item.line, message))
            return None
        x0, y0, x1, y1 = item.corners
        if x1 > x0 and y1 > y0:  # a box of zero area must not gain a pixel and pass for one of 1x1
            x0, y0 = x0 - offset, y0 - offset
        boxes.append(RawBox((x0, y0, x1, y1), classes.names.index(item.name), item.line))
    return assemble(RawImage(path, image.source.stem, image.source, image.declared, boxes=boxes), defects)


def _note_unlabelled(layout: Layout, images: _Images, defects: list[Defect]) -> None:
    """Images that no XML file describes: left out, because nobody said that they are empty."""
    known = {source.stem for sources in layout.sources.values() for source in sources}
    folders = {source.parent for sources in layout.sources.values() for source in sources}
    known |= {path.stem for folder in folders for path in folder.glob("*.xml")}
    for path in images.everything():
        if path.stem not in known:
            defects.append(Defect("warning", path, None, "has no XML file; left out"))
