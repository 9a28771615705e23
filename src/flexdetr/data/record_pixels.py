"""From a record to its pixels: a picture's file, or a page of a document in one of its four turns. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexdetr.data.dataset import Record
from flexdetr.data.images import ImageError, covering, pixels, read_image, read_part, read_reduced, to_rgb
from flexdetr.pixel_form import RGB, PixelForm
from flexdetr.runtime.documents import DocumentError, stored_page
from flexdetr.runtime.middle import middle
from flexdetr.runtime.orientation import turned


def read_record(record: Record) -> NDArray[np.uint8]:
    """What a model is shown of a record: the picture upright, a part or the middle of it, or of a page in its turn.

    Returns:
        (H, W, C) uint8 in the record's form.

    Raises:
        ImageError: if the file cannot be read.
    """
    if record.view is not None:
        return middle(read_page(record, None))
    if record.window is not None:
        left, top, right, bottom = record.window
        return read_part(record.path, record.window, (bottom - top, right - left), record.form)
    image = read_image(record.path, record.form)
    return middle(image) if record.middle else image


def read_record_reduced(record: Record, at_least: tuple[int, int]) -> NDArray[np.uint8]:
    """All of a record's picture, or of the part that it is, no larger than needed; see ``images.read_reduced``.

    Raises:
        ImageError: if the file cannot be read.
    """
    if record.window is not None:
        return read_part(record.path, record.window, at_least, record.form)
    if record.view is None:
        return read_reduced(record.path, at_least, record.form)
    return read_page(record, at_least)


def look_at_middle(source: Any, form: PixelForm = RGB) -> NDArray[np.uint8]:  # noqa: ANN401 - as ``images.pixels``
    """What a classifier is shown of a picture: the middle of it, upright.

    Returns:
        (S, S, C) uint8.

    Raises:
        ImageError: as ``images.pixels``.
    """
    return middle(pixels(source, form))


def look_at_page(
    source: str | Path | Image.Image | NDArray[np.uint8], form: PixelForm = RGB
) -> NDArray[np.uint8]:
    """What an orientation classifier is shown of a page: the middle of its pixels as they are stored.

    ``source`` is a file (of several pages the first), a PIL image, or an array (H, W, 3) uint8 RGB.

    Returns:
        (S, S, 3) uint8 RGB.

    Raises:
        ImageError: if a file cannot be read, or an array has another shape or type.
    """
    if isinstance(source, str | Path):
        try:
            source = stored_page(Path(source))
        except DocumentError as error:
            raise ImageError(str(error)) from error
    return middle(pixels(source, form))


def read_page(record: Record, at_least: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A page in its turn, all of it.

    Both sides still reach ``at_least`` (height, width); None takes the page whole.

    Raises:
        ImageError: if it cannot be read.
    """
    view = record.view
    if view is None:
        raise ValueError(f"{record.path} is not a page: its record has no view")
    try:
        page = stored_page(record.path, view.number, short_side=None if at_least is None else max(at_least))
        rgb = to_rgb(page)
        if at_least is not None:
            size = covering(rgb.size, (max(at_least), max(at_least)))
            if size != rgb.size:
                rgb = rgb.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return turned(np.array(rgb, dtype=np.uint8), view.turn)
    except DocumentError as error:
        raise ImageError(str(error)) from error
