"""Detections drawn into their picture, and pictures side by side; Pillow only."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


def annotate(
    image: NDArray[np.uint8] | Image.Image, found: Detections, *, scores: bool = True
) -> Image.Image:
    """A copy of a picture with a box, name and score for each object.

    Lines and letters grow with the picture. The best objects are drawn last, on top of the others; a label
    stands where it hides no better one's, inside the picture. Names in other scripts are written in an installed font
    that has their letters; if there is none, the class's id stands for the name, and a warning says so once.

    Args:
        image: (H, W, 3) uint8 RGB, or a PIL image.
        found: its objects, boxes in pixels of this picture.
        scores: whether to write the scores beside the names.

    Returns:
        An RGB image of the same size.
    """
    canvas = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB")
    if canvas is image:
        canvas = canvas.copy()
    pen = ImageDraw.Draw(canvas)
    side = (canvas.width * canvas.height) ** 0.5
    width = max(1, round(side / 260))
    letters = max(_SMALLEST_LETTERS, round(side / 38))
    colours = [class_colour(index) for index in found.indices.tolist()]
    boxes = [_ordered(box) for box in found.boxes_xyxy.tolist()]
    for box, colour in zip(reversed(boxes), reversed(colours), strict=True):
        if width > 1:  # a dark rim keeps bright lines visible on bright ground
            rim = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
            pen.rectangle(rim, outline=_darker(colour), width=width + 2)
        pen.rectangle(box, outline=colour, width=width)
    plates: list[Rectangle] = []
    labels: list[tuple[str, Font]] = []
    names = zip(found.names, found.labels.tolist(), found.scores.tolist(), boxes, strict=True)
    for name, number, score, box in names:
        shown, font = _readable(name, number, letters)
        text = _shortened(pen, f"{shown} {score:.2f}" if scores else shown, font, canvas.width)
        plate = _plate(pen, text, font, box, canvas.size, plates)
        plates.append(plate)
        labels.append((text, font))
    for (text, font), plate, colour in zip(
        reversed(labels), reversed(plates), reversed(colours), strict=True
    ):
        _write(pen, text, font, plate, colour)
    return canvas


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
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB")
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
) -> Rectangle:
    """Where a label goes: above its box, else below, else inside; the first place that hides no other label."""
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
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    return next(free, places[0])


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
