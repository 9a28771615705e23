"""Files that hold many pictures: videos and streams through OpenCV, animations and documents through Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexdetr.runtime.deep_pixels import tell_range
from flexdetr.runtime.picture_formats import picture_formats

VIDEO_SUFFIXES: Final = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".divx", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob",
    ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ts", ".mts", ".m2ts", ".mxf", ".mjpg", ".mjpeg", ".h264",
))  # fmt: skip
# Programs in TypeScript have these as well: in a folder their content decides.
AMBIGUOUS_SUFFIXES: Final = frozenset((".ts", ".mts"))
HEAD: Final = 1024
"""Bytes of a file's beginning that tell what it is."""

# Formats whose frames are pictures of their own; those of MPO, PSD or ICO are previews, layers and sizes of one.
_FRAMES: Final = frozenset(("GIF", "PNG", "WEBP", "TIFF", "AVIF"))
_MAY_HAVE_FRAMES: Final = (b"GIF8", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FILM_BEGINNINGS: Final = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: .wmv
    b"FLV\x01",
    b"OggS",
    b"\0\0\1\xba",  # MPEG program stream
    b"\0\0\1\xb3",  # MPEG video
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
)
_BOXES: Final = frozenset(
    (b"moov", b"mdat", b"wide", b"pnot")
)  # what QuickTime's files begin with, but for ftyp
_PICTURE_BRANDS: Final = frozenset(
    (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"miaf")
)
_PACKET: Final = 188  # bytes of an MPEG transport stream's packet
_REDUCED_OR_MASK: Final = 0b101  # of TIFF's NewSubfileType: no page, but a page's preview or mask
_NEW_SUBFILE_TYPE: Final = 254


class FilmError(ValueError):
    """A film that gives no picture; the message is a reason to stand behind its name."""


def is_film(head: bytes) -> bool:
    """Whether a file that begins so is a video, whatever it is called."""
    box = head[4:8]
    if box == b"ftyp":
        return head[8:12] not in _PICTURE_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"AVI "
    return head.startswith(_FILM_BEGINNINGS) or box in _BOXES or _is_transport_stream(head)


def may_have_pages(head: bytes) -> bool:
    """Whether a file that begins so may be a picture of several frames or pages."""
    return head.startswith(_MAY_HAVE_FRAMES) or head[4:12] == b"ftypavis"


def _is_transport_stream(head: bytes) -> bool:
    for offset in (0, 4):  # Blu-ray's packets begin with a time
        step = _PACKET + offset
        places = range(offset, len(head), step)
        if len(places) > 2 and all(head[place] == 0x47 for place in places):
            return True
    return False


def has_pages(content: Path | BytesIO) -> bool:
    """Whether a picture's file holds more than one that stands for itself.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: where it cannot be read, as Pillow does.
    """
    with Image.open(content, formats=picture_formats()) as image:
        if image.format not in _FRAMES or not getattr(image, "is_animated", False):
            return False
        return image.format != "TIFF" or sum(_is_page(image) for _ in _numbers(image)) > 1


def pages(content: Path | BytesIO) -> Iterator[tuple[int, Image.Image]]:
    """The frames of an animation, or a document's pages, upright, each with its number; previews and masks left out.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: where one cannot be read, as Pillow does.
    """
    with Image.open(content, formats=picture_formats()) as image:
        for number in _numbers(image):
            if image.format != "TIFF" or _is_page(image):
                if isinstance(content, Path):
                    tell_range(content, image)
                yield number, ImageOps.exif_transpose(image)


def _numbers(image: Image.Image) -> Iterator[int]:
    """Go from frame to frame, as long as there are any."""
    number = 0
    while True:
        try:
            image.seek(number)
        except EOFError:
            return
        yield number
        number += 1


def _is_page(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return not int(tags.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK


def frames(target: Path | int) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video file or a camera as (H, W, 3) RGB, as long as there are any.

    Raises:
        FilmError: where there is none.
        OSError: where the file cannot be read.
    """
    try:
        import cv2
    except ImportError as error:
        raise FilmError("videos and cameras need OpenCV: pip install 'flexdetr[video]'") from error
    if isinstance(target, Path) and _is_text(target):
        raise FilmError(
            "is a text, like a playlist, which names other files and addresses: give those that you mean"
        )
    capture = cv2.VideoCapture(str(target) if isinstance(target, Path) else target)
    found = False
    try:
        while True:
            more, frame = capture.read()
            if not more:
                break
            found = True
            yield np.ascontiguousarray(frame[:, :, ::-1])  # OpenCV's order is BGR
    finally:
        capture.release()
    if not found:
        raise FilmError("gives no picture; is it a video that OpenCV can read, or in use?")


def read_head(path: Path) -> bytes:
    """The beginning of a file.

    Raises:
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_text(path: Path) -> bool:
    """Whether a film's file holds text: FFmpeg knows playlists by their content, and opens whatever they name."""
    head = read_head(path)
    return bool(head) and all(byte >= 32 or byte in b"\t\n\r" for byte in head)
