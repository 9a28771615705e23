"""Files that hold many pictures: videos and streams through OpenCV, animations and documents through Pillow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
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


USUAL_RATE: Final = 30.0
"""Frames in a second of what states none."""
# OpenCV's numbers of what a film says about itself.
_POSITION_MS: Final = 0
_RATE: Final = 5
_FRAME_COUNT: Final = 7
_ENDLESS: Final = 1e12
_NOTHING: Final = "gives no picture; is it a video that OpenCV can read, or in use?"
_BROKEN_IN_A_ROW: Final = 64  # of frames that are tried before a film counts as ended


@dataclass(frozen=True)
class Part:
    """Which frames of films, cameras and streams are wanted.

    Attributes:
        every: one of so many, the first, by their numbers from 0.
        start: seconds before which none is.
        end: seconds at which it is over; None is the end.
        reconnect: how often in a row a stream that broke is tried again.

    Raises:
        ValueError: if a value is out of its range.
    """

    every: int = 1
    start: float = 0.0
    end: float | None = None
    reconnect: int = 5

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is one frame of N, and N at least 1; got {self.every}")
        if not self.start >= 0:
            raise ValueError(f"start is a time of 0 seconds or more; got {self.start}")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"end is a time after the start at {self.start:g} seconds; got {self.end:g}")
        if self.reconnect < 0:
            raise ValueError(f"reconnect is a number of tries, 0 or more; got {self.reconnect}")

    def takes(self, number: int, seconds: float | None) -> bool:
        """Whether a frame is wanted; without a time, by its number alone."""
        return number % self.every == 0 and (seconds is None or seconds >= self.start)

    def is_over(self, seconds: float) -> bool:
        """Whether no later frame is wanted."""
        return self.end is not None and seconds >= self.end


WHOLE: Final = Part()


class Frame(NamedTuple):
    """One picture of many.

    Attributes:
        number: from 0, of all frames, those that were not wanted among them.
        seconds: since the beginning; None if there is no time, as between the pages of a document.
        image: (H, W, 3) RGB, or a Pillow image; None if it cannot be decoded.
        rate: frames in a second, of all; None if there is no time.
    """

    number: int
    seconds: float | None
    image: Any
    rate: float | None = None


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
        OSError, ValueError, SyntaxError, EOFError: if it cannot be read, as Pillow does.
    """
    with Image.open(content, formats=picture_formats()) as image:
        if image.format not in _FRAMES or not getattr(image, "is_animated", False):
            return False
        return image.format != "TIFF" or sum(_is_page(image) for _ in _numbers(image)) > 1


def pages(content: Path | BytesIO) -> Iterator[Frame]:
    """The frames of an animation with their times, or a document's pages; upright, previews and masks left out.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if one cannot be read, as Pillow does.
    """
    with Image.open(content, formats=picture_formats()) as image:
        seconds: float | None = None if image.format == "TIFF" else 0.0
        for number in _numbers(image):
            if image.format != "TIFF" or _is_page(image):
                if isinstance(content, Path):
                    tell_range(content, image)
                yield Frame(number, seconds, ImageOps.exif_transpose(image))
            if seconds is not None:
                # WebP's decoder tells how long a frame stays when it has read it.
                seconds = round(seconds + float(image.info.get("duration") or 0) / 1000, 4)


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


def frames(target: Path | int, part: Part = WHOLE) -> Iterator[Frame]:
    """The frames of a video file or a camera, as long as there are any.

    Those that ``part`` leaves out are passed over without being converted. A frame of a file that cannot be decoded is
    one without an image, and the next go on.

    ``target`` is a file, or a camera's number.

    Raises:
        FilmError: if there is none, or a file ends long before it says.
        OSError: if the file cannot be read.
    """
    if isinstance(target, Path) and _is_text(target):
        raise FilmError(
            "is a text, like a playlist, which names other files and addresses: give those that you mean"
        )
    capture = open_capture(str(target) if isinstance(target, Path) else target)
    try:
        if isinstance(target, Path):
            yield from of_capture(capture, part)
        else:
            yield from _live(capture, part)
    finally:
        capture.release()


def open_capture(target: str | int, *options: Any) -> Any:  # noqa: ANN401 - of OpenCV, which is optional
    """OpenCV's reader of a film, a camera or a stream, open or not.

    Raises:
        FilmError: if OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise FilmError("videos and cameras need OpenCV: pip install 'flexdetr[video]'") from error
    # What cannot be opened is said by the caller, in one sentence; OpenCV would print lines of its own beside it.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(target, *options)
    finally:
        cv2.utils.logging.setLogLevel(level)


def stated_frames(capture: Any) -> int:  # noqa: ANN401
    """How many frames a film says that it has; 0 for what has no end that is known, like a stream."""
    stated = capture.get(_FRAME_COUNT)
    return int(stated) if 0 < stated < _ENDLESS else 0


def of_capture(capture: Any, part: Part) -> Iterator[Frame]:  # noqa: ANN401
    """The frames of a film that is open, with the times that it states itself.

    Raises:
        FilmError: as ``frames``.
    """
    stated, rate = stated_frames(capture), stated_rate(capture)
    number, good, broken = 0, 0, 0
    while True:
        if not capture.grab():
            # A frame that cannot be decoded looks like the end, and is not where others follow.
            if number + broken >= stated or broken >= _BROKEN_IN_A_ROW:
                break
            broken += 1
            continue
        for _ in range(broken):
            if part.takes(number, number / rate):
                yield Frame(number, number / rate, None, rate)
            number += 1
        broken = 0
        good += 1
        seconds = capture.get(_POSITION_MS) / 1000
        if part.is_over(seconds):
            return
        if part.takes(number, seconds):
            yield grabbed(capture, number, seconds, rate)
        number += 1
    if not good:
        raise FilmError(_NOTHING)
    # A film that was cut without being written anew has frames that are not to be seen, but few.
    if stated - number > max(2, stated // 10):
        raise FilmError(
            f"says that it has {stated} frames, and ends after {number}: the rest is missing or broken"
        )


def _live(capture: Any, part: Part) -> Iterator[Frame]:  # noqa: ANN401
    """The frames of a camera; their times are those of their arrival."""
    rate, began, number = stated_rate(capture), time.monotonic(), 0
    while capture.grab():
        seconds = time.monotonic() - began
        if part.is_over(seconds):
            return
        if part.takes(number, seconds):
            yield grabbed(capture, number, seconds, rate)
        number += 1
    if not number:
        raise FilmError(_NOTHING)


def stated_rate(capture: Any) -> float:  # noqa: ANN401
    """Frames in a second, as stated; 30 where nothing sensible is."""
    stated = float(capture.get(_RATE))
    return stated if 0 < stated < 1000 else USUAL_RATE


def grabbed(capture: Any, number: int, seconds: float, rate: float) -> Frame:  # noqa: ANN401
    """The frame that a capture has grabbed; without an image where it cannot be decoded."""
    more, frame = capture.retrieve()
    image = np.ascontiguousarray(frame[:, :, ::-1]) if more else None  # OpenCV's order is BGR
    return Frame(number, round(seconds, 4), image, rate)


def read_head(path: Path) -> bytes:
    """The beginning of a file.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_text(path: Path) -> bool:
    """Whether a film's file holds text: FFmpeg knows playlists by their content, and opens whatever they name."""
    head = read_head(path)
    return bool(head) and all(byte >= 32 or byte in b"\t\n\r" for byte in head)
