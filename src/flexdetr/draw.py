"""Detections drawn into their picture; Pillow only."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flexdetr.runtime.detections import Detections

_GOLDEN_ANGLE = 0.381966  # of a full turn: hues of neighbouring classes lie far apart, however many there are


def draw_detections(image: NDArray[np.uint8], found: Detections) -> NDArray[np.uint8]:
    """A copy of a picture with a box, name and score for each object.

    Line width and letters grow with the picture. The best objects are drawn last, on top of the others.

    Args:
        image: (H, W, 3) uint8 RGB.
        found: its objects, boxes in pixels of this picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    side = min(canvas.size)
    width = max(1, round(side / 200))
    font = ImageFont.load_default(max(10, round(side / 36)))
    for index in reversed(range(len(found))):
        colour = class_colour(int(found.indices[index]))
        left, top, right, bottom = found.boxes_xyxy[index].tolist()
        # Pillow wants ordered corners, and draws the far edge inside the picture only one pixel before its end.
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
        _write(pen, f"{found.names[index]} {found.scores[index]:.2f}", (left, top), colour, font, canvas.size)
    return np.asarray(canvas)


def class_colour(index: int) -> tuple[int, int, int]:
    """A class's colour: always the same for the same head index."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_ANGLE % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Text on a plate of the class's colour above a box's corner, moved to where all of it can be read."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = 2
    plate_width, plate_height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0.0, min(corner[0], size[0] - plate_width))
    y = corner[1] - plate_height if corner[1] >= plate_height else corner[1]
    pen.rectangle((x, y, x + plate_width, y + plate_height), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    pen.text(
        (x + margin - left, y + margin - top), text, fill="black" if luminance > 140 else "white", font=font
    )
