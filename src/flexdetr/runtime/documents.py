"""Pages of documents as their files store them: pictures, TIFF files of several pages, PDF files through pypdfium2."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, UnidentifiedImageError

from flexdetr.runtime.folders import IMAGE_SUFFIXES
from flexdetr.runtime.picture_formats import picture_formats

if TYPE_CHECKING:
    import pypdfium2

PAGE_SUFFIXES: Final = IMAGE_SUFFIXES | {".pdf"}
_POINTS: Final = 72  # to the inch, in PDF files


class DocumentError(ValueError):
    """A document that cannot be read; the message names the file and the reason."""


# What Pillow raises for files that are broken in one way or another.
_FAILURES = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, Image.DecompressionBombError)


def is_pdf(path: Path) -> bool:
    """Whether a file is to be read as PDF, by its name."""
    return path.suffix.lower() == ".pdf"


def num_pages(path: Path) -> int:
    """How many pages a document has; a picture is one, whatever frames it has, unless it is a TIFF file.

    Raises:
        DocumentError: if it cannot be read.
    """
    if is_pdf(path):
        with opened_pdf(path) as document:
            return len(document)
    with opened_picture(path) as image:
        return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1


def stored_page(path: Path, number: int = 0, *, short_side: int | None = None) -> Image.Image:
    """A page as it is stored: what EXIF says of its orientation is not applied.

    Args:
        path: the file.
        number: of the page, from 0.
        short_side: pixels that the shorter side needs at least: JPEG files are decoded at a fraction of their size
            where that suffices, and pages of PDF files are drawn so; None takes pictures whole, and draws at 200 dots
            an inch.

    Returns:
        The page in the mode in which it is stored; of a PDF file, RGB and as the file says that it is to be shown.

    Raises:
        DocumentError: if it cannot be read.
    """
    if is_pdf(path):
        with opened_pdf(path) as document:
            return _drawn(document, path, number, short_side)
    with opened_picture(path) as image:
        if number:
            image.seek(number)
        if short_side is not None:
            scale = short_side / min(image.size)
            if scale < 1:
                image.draft(
                    "RGB" if image.mode == "RGB" else None,
                    (round(image.width * scale), round(image.height * scale)),
                )
        image.load()
        return image.copy() if image.format == "TIFF" else image


@contextmanager
def opened_pdf(path: Path) -> Iterator[pypdfium2.PdfDocument]:
    """A PDF document, closed afterwards.

    Raises:
        DocumentError: if it cannot be read, or pypdfium2 is missing.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise DocumentError(f"{path}: PDF files need pypdfium2: pip install 'flexdetr[pdf]'") from error
    try:
        document = pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from error
    try:
        yield document
    finally:
        document.close()


def _drawn(document: pypdfium2.PdfDocument, path: Path, number: int, short_side: int | None) -> Image.Image:
    import pypdfium2

    try:
        page = document[number]
        scale = 200 / _POINTS if short_side is None else short_side / max(1.0, min(page.get_size()))
        # A page may state any size: 4,000 points are 55 inches.
        scale = min(scale, 8000 / max(1.0, *page.get_size()))
        drawn: Any = page.render(scale=scale).to_pil()
        return drawn.convert("RGB")
    except (pypdfium2.PdfiumError, IndexError, ValueError) as error:
        raise DocumentError(f"{path}: page {number + 1} cannot be drawn: {error}") from error


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A picture's file as Pillow opens it, closed afterwards.

    Raises:
        DocumentError: if it cannot be read, also while it is used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large scans are legitimate
            image = Image.open(path, formats=picture_formats())
        with image:
            yield image
    except FileNotFoundError as error:
        raise DocumentError(f"{path}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise DocumentError(f"{path}: is not a picture that can be read") from error
    except DocumentError:
        raise
    except _FAILURES as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from error
