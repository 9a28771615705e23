"""Galleries: what went wrong, cut out of its image with boxes drawn, inside the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from flexdetr.data.images import ImageError
from flexdetr.data.record_pixels import read_record
from flexdetr.runtime.arrays import shown

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.mistakes import Mistake

_SIDE = 220  # of a picture in the page
_AROUND = 1.0  # surroundings on each side, as a share of the box's longer side
_LEAST = 48  # pixels on each side, for small boxes
WRONG, TRUTH, FOUND = "#dc2626", "#16a34a", "#2563eb"


def gallery(mistakes: Sequence[Mistake], records: Sequence[Record], classes: Classes) -> str:
    """A picture for each: red is what is wrong, blue a right detection, green are labelled objects."""
    if not mistakes:
        return "<p>none</p>"
    return (
        f'<div class="gallery">{"".join(_entry(one, records[one.image], classes) for one in mistakes)}</div>'
    )


def _entry(mistake: Mistake, record: Record, classes: Classes) -> str:
    try:
        picture = embedded(cut_out(mistake, record))
    except ImageError as error:
        return f"<div><p>{escape(str(error))}</p></div>"
    name = classes.names[mistake.label]
    score = "" if np.isnan(mistake.score) else f" {mistake.score:.2f}"
    near = f", IoU {mistake.iou:.2f}" if mistake.other is not None else ""
    text = f"{name}{score}{near}"
    below = f"{escape(text)}<br><small>{escape(record.path.name)}</small>"
    return f'<div><img src="{picture}" alt="{escape(text)}"><p>{below}</p></div>'


def cut_out(mistake: Mistake, record: Record) -> Image.Image:
    """The mistake's box with its surroundings, and boxes drawn; at most 220 pixels on a side.

    Raises:
        ImageError: if the image cannot be read.
    """
    image = read_record(record)
    x0, y0, x1, y1 = (float(side) for side in mistake.box_xyxy)
    margin = max(_LEAST, _AROUND * max(x1 - x0, y1 - y0))
    left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    right, bottom = min(image.shape[1], int(x1 + margin) + 1), min(image.shape[0], int(y1 + margin) + 1)
    canvas = Image.fromarray(shown(image[top:bottom, left:right]))
    scale = _SIDE / max(canvas.size)
    canvas = canvas.resize((max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale))))
    pen = ImageDraw.Draw(canvas)
    own = FOUND if mistake.kind == "right" else WRONG
    boxes = [(box, TRUTH) for box in record.boxes_xyxy] + [(mistake.box_xyxy, own)]
    for box, colour in boxes:
        x0, y0, x1, y1 = ((np.asarray(box) - [left, top, left, top]) * scale).tolist()
        pen.rectangle(
            (x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=2
        )  # one without area is a dot
    return canvas


def embedded(picture: Image.Image) -> str:
    """A JPEG as a ``data:`` address."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
