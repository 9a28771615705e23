"""Documents written with their pages turned upright; pixels are moved and not changed wherever their format allows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, JpegImagePlugin

from flexdetr.runtime.documents import DocumentError, is_pdf, num_pages, opened_pdf, opened_picture

How = Literal["copied", "rearranged", "re-encoded", "marked"]

_ORIENTATION: Final = 0x0112  # EXIF's tag
_COUNTER_CLOCKWISE: Final = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
# What is written again without loss; WebP and JPEG 2000 have a mode for it.
_LOSSLESS: Final[dict[str, dict[str, Any]]] = {
    "PNG": {},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    "TGA": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {},
}


def write_upright(source: Path, angles: Sequence[int], out: Path) -> tuple[Path, How]:
    """Write a document with its pages turned.

    Args:
        source: a picture, a TIFF file of several pages, or a PDF file.
        angles: of each page, how many degrees clockwise it lies away from upright: 0, 90, 180 or 270.
        out: the file to write, with the source's suffix; replaced where it exists.

    Returns:
        the file that was written (a PNG file where the source's format is none that can be written), and how:

        - "copied": byte by byte, no page was turned;
        - "rearranged": the pixels are in other places, and the same;
        - "re-encoded": a JPEG file, with its own quantisation tables: pixels differ by rounding;
        - "marked": a PDF file, whose pages now state a rotation; what is on them is the same.

        EXIF's orientation is taken away: the pixels themselves are upright.

    Raises:
        DocumentError: if the source cannot be read, or has another number of pages.
        OSError: if the file cannot be written.
        ValueError: if an angle is none of the four, or the file would replace its source.
    """
    if wrong := [angle for angle in angles if angle not in (0, *_COUNTER_CLOCKWISE)]:
        raise ValueError(f"pages are turned by 0, 90, 180 or 270 degrees, got {wrong[0]}")
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} would take the place of the page itself: write to another folder")
    if (count := num_pages(source)) != len(angles):
        raise DocumentError(f"{source}: has {count} pages, and {len(angles)} angles were given")
    if is_pdf(source):
        return _write_pdf(source, angles, out)
    with opened_picture(source) as image:
        if not any(angles) and image.getexif().get(_ORIENTATION, 1) == 1:
            shutil.copyfile(source, out)
            return out, "copied"
        if image.format in ("JPEG", "MPO"):
            return _write_jpeg(image, angles[0], out)
        return _write_picture(image, angles, out)


def _write_pdf(source: Path, angles: Sequence[int], out: Path) -> tuple[Path, How]:
    if not any(angles):
        shutil.copyfile(source, out)
        return out, "copied"
    with opened_pdf(source) as document:
        for number, angle in enumerate(angles):
            if angle:
                page = document[number]
                page.set_rotation((page.get_rotation() - angle) % 360)  # stated clockwise
        document.save(out)
    return out, "marked"


def _write_jpeg(image: Image.Image, angle: int, out: Path) -> tuple[Path, How]:
    """Encode with the file's own tables: what was rounded to them once is rounded to the same values again."""
    tables = {place: list(table) for place, table in getattr(image, "quantization", {}).items()}
    sampling = JpegImagePlugin.get_sampling(image)
    if angle in (90, 270):
        tables = {place: np.reshape(table, (8, 8)).T.ravel().tolist() for place, table in tables.items()}
        if sampling == 1:  # half as many colours across would have to become half as many down
            sampling = 0
    kept = _kept(image)
    turned = _turned(image, angle)
    turned.save(out, "JPEG", qtables=tables or None, subsampling=max(sampling, 0), **kept)
    return out, "re-encoded"


def _write_picture(image: Image.Image, angles: Sequence[int], out: Path) -> tuple[Path, How]:
    form = str(image.format)
    if form not in _LOSSLESS:
        form, out = "PNG", out.with_suffix(".png")
    options = {**_LOSSLESS[form], **_kept(image)}
    if form == "TIFF" and "compression" in image.info and image.info["compression"] != "jpeg":
        options["compression"] = image.info["compression"]
    pages = []
    for number, angle in enumerate(angles):
        if number:
            image.seek(number)
        pages.append(_turned(image, angle))
    if len(pages) > 1:
        options |= {"save_all": True, "append_images": pages[1:]}
    pages[0].save(out, form, **options)
    return out, "rearranged"


def _turned(image: Image.Image, angle: int) -> Image.Image:
    if angle == 0:
        return image.copy()
    return image.transpose(_COUNTER_CLOCKWISE[angle])


def _kept(image: Image.Image) -> dict[str, Any]:
    """What goes along with the pixels: resolution, colour profile, EXIF but for its orientation."""
    kept = {key: image.info[key] for key in ("dpi", "icc_profile") if image.info.get(key)}
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    if len(exif) and image.format not in ("TIFF", "BMP", "PPM", "TGA"):
        kept["exif"] = exif.tobytes()
    return kept
