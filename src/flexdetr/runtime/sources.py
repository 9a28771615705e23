"""What a person may give to predict on: files, folders, globs, standard input, videos, cameras, arrays."""

from __future__ import annotations

import glob
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flexdetr.runtime.folders import IMAGE_SUFFIXES, list_files
from flexdetr.runtime.picture_formats import picture_formats

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))

Source = str | Path | Image.Image | NDArray[np.uint8]
Pixels = Callable[[Any], NDArray[np.uint8]]


class Camera(NamedTuple):
    """A camera of this machine.

    Attributes:
        number: 0 for the first.
    """

    number: int


class Missing(NamedTuple):
    """A source that leads to no image.

    Attributes:
        reason: one sentence.
    """

    reason: str


class Item(NamedTuple):
    """One thing to read; a video or a camera gives many pictures, everything else one.

    Attributes:
        name: how results and messages call it.
        content: where the picture comes from.
    """

    name: str
    content: Path | Image.Image | NDArray[np.uint8] | Camera | Missing


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that was read.

    Attributes:
        name: the file's path; of a video, path and frame number.
        image: (H, W, 3) uint8 RGB.
    """

    name: str
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, so that the others can go on.

    Attributes:
        name: as of ``Picture``.
        reason: one sentence.
    """

    name: str
    reason: str


def find(sources: Source | Iterable[Source], *, stdin: BinaryIO | None = None) -> list[Item]:
    """List what sources hold, without reading any image file yet.

    A text is a file, a folder (with everything below it but hidden and system files), a glob, ``-`` for standard
    input (an image, or paths, one on each line or separated by NUL), or a number for a camera. A file that is found
    twice is listed once. What leads nowhere is listed too: reading it gives ``Unreadable``.

    Args:
        sources: one or many texts, paths, PIL images or arrays.
        stdin: what ``-`` reads, by default the process's own.
    """
    given = [sources] if isinstance(sources, str | Path | Image.Image | np.ndarray) else list(sources)
    found: list[Item] = []
    seen: set[Path] = set()
    for number, source in enumerate(given):
        if isinstance(source, str | Path):
            below = _from_stdin(stdin or sys.stdin.buffer) if str(source) == "-" else _from_text(str(source))
        else:
            below = [Item(getattr(source, "filename", "") or f"image-{number}", source)]
        for item in below:
            if isinstance(item.content, Path):
                if item.content in seen:
                    continue
                seen.add(item.content)
            found.append(item)
    return found


def is_film(item: Item) -> bool:
    """Whether it gives many pictures, one after the other: a video or a camera."""
    content = item.content
    return isinstance(content, Camera) or (
        isinstance(content, Path) and content.suffix.lower() in VIDEO_SUFFIXES
    )


def read(items: Iterable[Item], pixels: Pixels) -> Iterator[Picture | Unreadable]:
    """Read what ``find`` listed, one image at a time.

    Args:
        items: the list.
        pixels: turns a path, PIL image or array into (H, W, 3) uint8 RGB; ``OSError`` and ``ValueError`` mean
            that
            it cannot be read.
    """
    for name, content in items:
        if isinstance(content, Missing):
            yield Unreadable(name, content.reason)
        elif isinstance(content, Camera):
            yield from _frames(name, content.number)
        elif isinstance(content, Path) and is_film(Item(name, content)):
            yield from _frames(name, str(content))
        else:
            try:
                image = pixels(content)
            except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNGs
                yield Unreadable(name, _one_line(error))
            else:
                yield Picture(name, image)


def _from_text(text: str) -> list[Item]:
    """The files that a path, folder or glob stands for, sorted; or a camera."""
    path = Path(text)
    if path.is_dir():
        known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        listing = list_files(path)
        below = [Item(str(one), one) for one in listing.files if one.suffix.lower() in known]
        unread = [Item(str(one), Missing(f"{one}: {reason}")) for one, reason in listing.unread]
        return below + unread or [Item(text, Missing(f"{text}: the folder holds no image"))]
    if path.exists():
        return [Item(text, path)]
    if text.isdecimal():
        return [Item(f"camera-{text}", Camera(int(text)))]
    if glob.has_magic(text):
        # Not Path.glob: that refuses absolute patterns.
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207
        files = [match for match in matches if match.is_file()]
        return [Item(str(one), one) for one in files] or [Item(text, Missing(f"{text}: no file matches"))]
    return [Item(text, Missing(f"{text}: there is no such file or folder"))]


def _from_stdin(stream: BinaryIO) -> list[Item]:
    """An image, or the sources that lines of text name."""
    content = stream.read()
    if not content.strip():
        return [
            Item("-", Missing("-: nothing came through standard input; expected an image or a list of paths"))
        ]
    try:
        return [Item("stdin", Image.open(io.BytesIO(content), formats=picture_formats()))]
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        separator = b"\0" if b"\0" in content else b"\n"
        names = [os.fsdecode(line.strip(b"\r\n")) for line in content.split(separator)]
        names = [name for name in names if name.strip()]
        if not all(name.isprintable() for name in names):
            reason = "-: standard input holds neither an image that can be read nor a list of paths"
            _log.debug("standard input: %s", error)
            return [Item("-", Missing(reason))]
    return [item for name in names for item in _from_text(name)]


def _frames(name: str, target: str | int) -> Iterator[Picture | Unreadable]:
    """The frames of a video file or a camera, as long as there are any."""
    try:
        import cv2
    except ImportError:
        yield Unreadable(name, f"{name}: videos and cameras need OpenCV: pip install 'flexdetr[video]'")
        return
    try:
        if isinstance(target, str) and _is_text(Path(target)):
            reason = (
                "is a text, like a playlist, which names other files and addresses: give those that you mean"
            )
            yield Unreadable(name, f"{name}: {reason}")
            return
    except OSError as error:
        yield Unreadable(name, f"{name}: cannot be read: {error.strerror or error}")
        return
    capture = cv2.VideoCapture(target)
    try:
        number = -1
        while True:
            more, frame = capture.read()
            if not more:
                break
            number += 1
            yield Picture(
                f"{name}#{number:06d}", np.ascontiguousarray(frame[:, :, ::-1])
            )  # OpenCV's order is BGR
        if number < 0:
            yield Unreadable(
                name, f"{name}: gives no picture; is it a video that OpenCV can read, or in use?"
            )
    finally:
        capture.release()


def _is_text(path: Path) -> bool:
    """Whether a film's file holds text: FFmpeg knows playlists by their content, and opens whatever they name."""
    with path.open("rb") as file:
        head = file.read(1024)
    return bool(head) and all(byte >= 32 or byte in b"\t\n\r" for byte in head)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
