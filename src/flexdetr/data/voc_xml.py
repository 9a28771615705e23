"""One Pascal VOC XML file."""

from __future__ import annotations

import xml.parsers.expat as expat
from dataclasses import dataclass, field
from pathlib import Path

from flexdetr.data.text import read_text
from flexdetr.data.values import flag, number, shown


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
    """One XML file: the image's name and folder as written, the stated (width, height), and the objects."""

    source: Path
    filename: str
    folder: str
    declared: tuple[int, int] | None
    objects: list[VocObject]


def parse_xml(text: str) -> Node:
    """An XML document as nodes that know their lines.

    Raises:
        XmlError: if it is malformed, or declares entities (which could expand without bound or read other
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
        raise XmlError(f"is not well-formed XML: {expat.ErrorString(error.code)}", error.lineno) from error
    return root.children[0]


def voc_image(source: Path) -> VocImage:
    """Reads an annotation.

    Raises:
        XmlError: if it is no VOC annotation.
        TextError: if it cannot be read.
    """
    document = parse_xml(read_text(source))
    if document.tag != "annotation":
        raise XmlError(f"the root element is <{document.tag}>, expected <annotation>", document.line)
    objects = [_voc_object(node) for node in document.children if node.tag == "object"]
    return VocImage(
        source, document.value("filename") or "", document.value("folder") or "", _size(document), objects
    )


def _size(document: Node) -> tuple[int, int] | None:
    """(width, height) as stated; some tools write 0, and odd values are no size either."""
    size = document.child("size")
    width, height = (number(size.value(tag)) for tag in ("width", "height")) if size else (None, None)
    return (round(width), round(height)) if width and height and min(width, height) >= 1 else None


def _voc_object(node: Node) -> VocObject:
    name = node.value("name")
    box = node.child("bndbox")
    if not name or box is None:
        raise XmlError("an <object> needs a <name> and a <bndbox>", node.line)
    x0, y0, x1, y1 = (_number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(name, (x0, y0, x1, y1), box.line, bool(flag(node.value("difficult"))))


def _number(node: Node, tag: str) -> float:
    text = node.value(tag)
    value = number(text)
    if value is None:
        raise XmlError(f"<{tag}> of <{node.tag}> is {shown(text)}, expected a number", node.line)
    return value
