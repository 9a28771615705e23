"""Detections drawn into their picture, and pictures side by side; Pillow only."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flexdetr.runtime.arrays import shown as as_shown
from flexdetr.runtime.fonts import font_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flexdetr.runtime.detections import Detections
    from flexdetr.runtime.fonts import Font

    Colour = tuple[int, int, int]
    Rectangle = tuple[float, float, float, float]

_GOLDEN_ANGLE = 0.381966  # of a full turn: hues of neighbouring classes lie far apart, however many there are
_SHADES = ((0.85, 0.95), (0.6, 1.0), (0.9, 0.7))  # saturation and value, in turn every eight classes
_SMALLEST_LETTERS = 10
_FEW = 12  # objects; with more of them letters are smaller
_HIDDEN = 0.25  # share of another object's box that a label may hide


def annotate(
    image: NDArray[np.uint8] | Image.Image, found: Detections, *, scores: bool = True
) -> Image.Image:
    """A copy of a picture with a box, name and score for each object.

    Lines and letters grow with the picture. The best objects are drawn last, on top of the others; a label
    stands inside the picture, where it hides no better one's and little of the other objects. Where there is no such
    place it goes without its score, and then without a label, unless it is the best of its class: the colour tells
    the class. Names in other scripts are written in an installed font
    that has their letters; if there is none, the class's id stands for the name, and a warning says so once.

    Args:
        image: (H, W, 3) uint8 RGB, or a PIL image; of other channels see ``runtime.arrays.shown``.
        found: its objects, boxes in pixels of this picture.
        scores: whether to write the scores beside the names.

    Returns:
        An RGB image of the same size.
    """
    canvas = Image.fromarray(as_shown(image)) if isinstance(image, np.ndarray) else image.convert("RGB")
    if canvas is image:
        canvas = canvas.copy()
    pen = ImageDraw.Draw(canvas)
    side = (canvas.width * canvas.height) ** 0.5
    width = max(1, round(side / 260))
    crowded = min(1.0, (_FEW / max(1, len(found))) ** 0.5)
    letters = max(_SMALLEST_LETTERS, round(crowded * side / 38))
    colours = [class_colour(index) for index in found.indices.tolist()]
    boxes = [_ordered(box) for box in found.boxes_xyxy.tolist()]
    for box, colour in zip(reversed(boxes), reversed(colours), strict=True):
        if width > 1:  # a dark rim keeps bright lines visible on bright ground
            rim = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
            pen.rectangle(rim, outline=_darker(colour), width=width + 2)
        pen.rectangle(box, outline=colour, width=width)
    for text, font, plate, index in reversed(_labels(pen, found, boxes, canvas.size, letters, scores=scores)):
        _write(pen, text, font, plate, class_colour(index))
    return canvas


def _labels(
    pen: ImageDraw.ImageDraw,
    found: Detections,
    boxes: Sequence[Rectangle],
    size: tuple[int, int],
    letters: int,
    *,
    scores: bool,
) -> list[tuple[str, Font, Rectangle, int]]:
    """Text, font, place and class of each label that is written, the best object's first."""
    labels: list[tuple[str, Font, Rectangle, int]] = []
    named: set[int] = set()
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    rows = zip(
        found.names, found.labels.tolist(), found.scores.tolist(), found.indices.tolist(), boxes, strict=True
    )
    for place, (name, number, score, index, box) in enumerate(rows):
        shown, font = _readable(name, number, letters)
        texts = [f"{shown} {score:.2f}", shown] if scores else [shown]
        others = np.delete(corners, place, axis=0)
        taken = [plate for _, _, plate, _ in labels]
        for long in texts:
            text = _shortened(pen, long, font, size[0])
            plate = _plate(pen, text, font, box, size, taken, others)
            if plate is None and index not in named and long == texts[-1]:
                free = _plate(pen, text, font, box, size, taken, corners[:0])
                plate = free or _places(pen, text, font, box, size)[0]
            if plate is not None:
                labels.append((text, font, plate, index))
                named.add(index)
                break
    return labels


def _readable(name: str, number: int, size: int) -> tuple[str, Font]:
    """A class's name and a font that has its letters; its id where no font has them."""
    font = font_for(name, size)
    return (f"class {number}", ImageFont.load_default(size)) if font is None else (name, font)


def draw_detections(image: NDArray[np.uint8], found: Detections) -> NDArray[np.uint8]:
    """``annotate`` from array to array.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        found: its objects, boxes in pixels of this picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return np.asarray(annotate(image, found))


def cut_out(
    image: NDArray[np.uint8] | Image.Image, boxes_xyxy: NDArray[np.floating], margin: float = 0.0
) -> list[NDArray[np.uint8]]:
    """Each box of a picture as a picture of its own; see ``Detections.crops``."""
    whole = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
    height, width = whole.shape[:2]
    cut = []
    for x0, y0, x1, y1 in boxes_xyxy.astype(np.float64).tolist():
        dx, dy = margin * (x1 - x0), margin * (y1 - y0)
        left = int(np.clip(np.floor(x0 - dx), 0, width - 1))
        top = int(np.clip(np.floor(y0 - dy), 0, height - 1))
        right = int(np.clip(np.ceil(x1 + dx), left + 1, width))
        bottom = int(np.clip(np.ceil(y1 + dy), top + 1, height))
        cut.append(whole[top:bottom, left:right].copy())
    return cut


def contact_sheet(
    images: Sequence[NDArray[np.uint8] | Image.Image],
    columns: int = 4,
    *,
    cell: int = 320,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures in rows and columns, each made to fit its cell with its aspect ratio kept, on white.

    Args:
        images: the pictures, of any sizes.
        columns: pictures in a row.
        cell: pixels of a picture's longer side; smaller pictures are not enlarged.
        captions: a line below each picture.

    Raises:
        ValueError: if there is no picture, no column, or not one caption for each picture.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs pictures and columns, got {len(images)} and {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures")
    small = []
    for image in images:
        picture = Image.fromarray(as_shown(image)) if isinstance(image, np.ndarray) else image.convert("RGB")
        factor = min(1.0, cell / max(picture.size))
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        small.append(picture.resize(size, Image.Resampling.LANCZOS) if size != picture.size else picture)
    columns = min(columns, len(small))
    width, height = max(one.width for one in small), max(one.height for one in small)
    gap = max(2, cell // 80)
    font = ImageFont.load_default(max(_SMALLEST_LETTERS, cell // 22))
    line = 0 if captions is None else round(_height(font) * 1.5)
    rows = -(-len(small) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + line + gap) + gap), (255, 255, 255)
    )
    pen = ImageDraw.Draw(sheet)
    for number, picture in enumerate(small):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (height + line + gap)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
        if captions is not None:
            text = _shortened(pen, captions[number], font, width)
            pen.text((left + 2, top + height + line // 6), text, fill=(30, 30, 30), font=font)
    return sheet


def class_colour(index: int) -> Colour:
    """A class's colour: always the same for the same head index."""
    saturation, value = _SHADES[index // 8 % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_ANGLE % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ordered(box: Sequence[float]) -> Rectangle:
    """A box as Pillow wants it: whole pixels, the last ones included, never negative in size."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _darker(colour: Colour) -> Colour:
    red, green, blue = colour
    return red // 4, green // 4, blue // 4


def _height(font: Font) -> float:
    """Height of a line that holds any letter, so that all plates are equally high."""
    _, top, _, bottom = font.getbbox("Ájg|")
    return bottom - top


def _shortened(pen: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """The text, or as much of it as fits, and an ellipsis. Line breaks become spaces."""
    text = " ".join(text.split())
    room = width - 2 * _margin(font)
    if pen.textlength(text, font=font) <= room:
        return text
    while text and pen.textlength(f"{text}...", font=font) > room:
        text = text[:-1]
    return f"{text}..."


def _margin(font: Font) -> int:
    return max(2, round(_height(font) / 6))


def _plate(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: Font,
    box: Rectangle,
    size: tuple[int, int],
    taken: Sequence[Rectangle],
    others: NDArray[np.float64],
) -> Rectangle | None:
    """The first place of a label that hides no other label and little of any other box; None if there is none."""
    return next(
        (
            place
            for place in _places(pen, text, font, box, size)
            if not any(_overlap(place, other) for other in taken) and not _hides(place, others)
        ),
        None,
    )


def _places(
    pen: ImageDraw.ImageDraw, text: str, font: Font, box: Rectangle, size: tuple[int, int]
) -> list[Rectangle]:
    """Where a label may go, the better places first: above its box, below, inside."""
    margin = _margin(font)
    width, height = pen.textlength(text, font=font) + 2 * margin, _height(font) + 2 * margin
    left, top, right, bottom = box
    corners = (
        (left, top - height),
        (left, bottom + 1),
        (left, top),
        (right - width, top),
        (left, bottom - height),
    )
    places = []
    for x, y in corners:
        inside_x = max(0.0, min(x, size[0] - width))
        if 0 <= y <= size[1] - height:
            places.append((inside_x, y, inside_x + width, y + height))
    if not places:
        y = max(0.0, min(top, size[1] - height))
        x = max(0.0, min(left, size[0] - width))
        places.append((x, y, x + width, y + height))
    return places


def _hides(plate: Rectangle, boxes: NDArray[np.float64]) -> bool:
    """Whether a label hides much of one of some boxes."""
    sides = np.minimum(plate[2:], boxes[:, 2:]) - np.maximum(plate[:2], boxes[:, :2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return bool((np.clip(sides, 0, None).prod(axis=1) > _HIDDEN * areas).any())


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write(pen: ImageDraw.ImageDraw, text: str, font: Font, plate: Rectangle, colour: Colour) -> None:
    """Text on a plate of its class's colour, black or white, whichever reads better."""
    pen.rectangle(plate, fill=colour)
    margin = _margin(font)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    top = font.getbbox("Ájg|")[1]
    pen.text(
        (plate[0] + margin, plate[1] + margin - top),
        text,
        fill=(0, 0, 0) if luminance > 120 else (255, 255, 255),
        font=font,
    )
