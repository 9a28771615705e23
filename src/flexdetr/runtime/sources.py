"""What a person may give to predict on: files, folders, globs, standard input, addresses, videos, cameras, arrays."""

from __future__ import annotations

import fnmatch
import glob
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flexdetr.runtime.addresses import Address, fetch, is_address
from flexdetr.runtime.arrays import ArrayLike, is_array
from flexdetr.runtime.films import (
    AMBIGUOUS_SUFFIXES,
    VIDEO_SUFFIXES,
    WHOLE,
    Frame,
    Part,
    frames,
    has_pages,
    is_film,
    may_have_pages,
    pages,
    read_head,
)
from flexdetr.runtime.folders import IMAGE_SUFFIXES, NPY, is_hidden, list_files
from flexdetr.runtime.picture_formats import picture_formats
from flexdetr.runtime.streams import stream

_log = logging.getLogger(__name__)

# A path or an address, a file's bytes, a Pillow image, or an array or tensor as ``runtime.arrays`` takes it.
Source = str | Path | bytes | Image.Image | NDArray[Any] | ArrayLike
Pixels = Callable[[Any], NDArray[np.uint8]]


class Camera(NamedTuple):
    """A camera of this machine."""

    number: int


class Missing(NamedTuple):
    """A source that leads to no image."""

    reason: str


class Item(NamedTuple):
    """One thing to read; a video or a camera gives many pictures, everything else one.

    Attributes:
        name: how results and messages call it.
        content: where the picture comes from; bytes are those of a file.
        part: which frames are wanted, where it gives many.
    """

    name: str
    content: Path | io.BytesIO | Image.Image | NDArray[Any] | ArrayLike | Camera | Address | Missing
    part: Part = WHOLE


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that was read.

    Attributes:
        name: the file's path; of a video, path and frame number.
        image: (H, W, C) uint8, RGB unless the detector takes another form.
        frame: its number from 0 in a video, an animation or a document; None for a picture of its own.
        seconds: its time in a video; None if there is none.
        rate: frames in a second of what was read of the video; None if there is no time.
    """

    name: str
    image: NDArray[np.uint8]
    frame: int | None = None
    seconds: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, so that the others can go on.

    ``reason`` is one sentence.
    """

    name: str
    reason: str


def find(
    sources: Source | Iterable[Source],
    *,
    stdin: BinaryIO | None = None,
    leave_out: Path | None = None,
    part: Part = WHOLE,
) -> list[Item]:
    """List what sources hold, without reading any picture yet.

    A text is a file, a folder (with everything below it but hidden and system files), a glob, ``-`` for standard
    input (an image, or paths, one on each line or separated by NUL), an address (``https://``, ``rtsp://`` ...) of a
    picture, a film or a stream, or a number for a camera. A file that is found twice is listed once. What leads nowhere
    is listed too: reading it gives ``Unreadable``.

    Args:
        sources: one or many texts, paths, PIL images or arrays.
        stdin: what ``-`` reads, by default the process's own.
        leave_out: a folder that is passed over below others, where results go for instance.
        part: which frames are wanted of what gives many.
    """
    alone = isinstance(sources, str | Path | bytes | Image.Image) or is_array(sources)
    given: list[Any] = [sources] if alone else list(cast("Iterable[Any]", sources))
    found: list[Item] = []
    seen: set[Path] = set()
    for number, source in enumerate(given):
        if isinstance(source, str | Path):
            listed = _from_stdin(stdin or sys.stdin.buffer) if str(source) == "-" else [str(source)]
            below = [
                item
                for one in listed
                for item in ([one] if isinstance(one, Item) else _from_text(one, leave_out))
            ]
        else:
            below = [as_item(source, number)]
        for item in below:
            if isinstance(item.content, Path):
                place = item.content.absolute()
                if place in seen:
                    continue
                seen.add(place)
            found.append(item._replace(part=part))
    return found


def as_item(source: Source, number: int = 0) -> Item:
    """One source that is taken as it is: a text is a path or an address, no folder, glob or camera.

    For what has no name, ``number`` is it among others.
    """
    if isinstance(source, str) and is_address(source):
        address = Address(source)
        return Item(address.shown, address)
    if isinstance(source, str | Path):
        return Item(str(source), Path(source))
    content = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    return Item(getattr(source, "filename", "") or f"image-{number}", content)


def as_film(source: Source | list[Source]) -> Item | None:
    """The film or the stream that a path or an address leads to, whose pictures are its frames; None for all else."""
    if not isinstance(source, str | Path):
        return None
    item = as_item(source)
    content = item.content
    if isinstance(content, Address):
        return item if content.looks_like_film else None
    try:
        return item if isinstance(content, Path) and _gives_frames(content, read_head(content)) else None
    except OSError:  # reading it as a picture says what is wrong
        return None


def expects_many(item: Item) -> bool:
    """Whether many pictures are to be expected of it, by its name alone: a video, a stream or a camera."""
    content = item.content
    return (
        isinstance(content, Camera)
        or (isinstance(content, Path) and content.suffix.lower() in VIDEO_SUFFIXES)
        or (isinstance(content, Address) and content.looks_like_film)
    )


def may_give_many(item: Item) -> bool:
    """Whether several pictures may come of it, as far as its beginning tells; False is certain."""
    content = item.content
    if not isinstance(content, Path):
        return isinstance(content, Camera | Address | io.BytesIO)
    try:
        head = read_head(content)
        return may_have_pages(head) or _gives_frames(content, head)
    except OSError:  # reading it as a picture says what is wrong
        return True


def is_live(item: Item) -> bool:
    """Whether it shows what happens now, as far as its name tells: a camera, or a stream."""
    content = item.content
    return isinstance(content, Camera) or (isinstance(content, Address) and content.streams)


def read(items: Iterable[Item], pixels: Pixels, *, whole: bool = False) -> Iterator[Picture | Unreadable]:
    """Read what ``find`` listed, one image at a time.

    Args:
        items: the list.
        pixels: turns a path, PIL image or array into (H, W, C) uint8; ``OSError`` and ``ValueError`` mean that it
            cannot be read.
        whole: take a picture's pages for one picture.
    """
    for item in items:
        one = read_one(item, pixels, whole=whole)
        if one is None:
            yield from read_many(item, pixels)
        else:
            yield one


def read_one(item: Item, pixels: Pixels, *, whole: bool = False) -> Picture | Unreadable | None:
    """The picture that an item is; None if it gives many, which ``read_many`` reads.

    Its content decides, not its name: videos, animations and documents of several pages give many.

    ``whole`` takes the first frame or page for the whole; for ``pixels`` see ``read``.
    """
    name, content = item.name, item.content
    if isinstance(content, Missing):
        return Unreadable(name, content.reason)
    if isinstance(content, Camera):
        return None
    try:
        if isinstance(content, Path) and not whole:
            head = read_head(content)
            if _gives_frames(content, head) or (may_have_pages(head) and has_pages(content)):
                return None
        elif isinstance(content, io.BytesIO):
            if not whole and has_pages(content):
                return None
            content = next(pages(content)).image
        elif isinstance(content, Address):
            fetched = fetch(content)
            if fetched is None or has_pages(fetched):
                return None
            content = next(pages(fetched)).image
        return Picture(name, pixels(content))
    except _FAILURES as error:
        return Unreadable(name, _reason(name, error))


def read_many(item: Item, pixels: Pixels) -> Iterator[Picture | Unreadable]:
    """The pictures of an item that gives many, named ``ITEM#000000`` and so on; what cannot be read ends them.

    A single frame of a video that cannot be decoded does not: it is ``Unreadable``, and the next go on.
    """
    name, part = item.name, item.part
    try:
        for frame in _frames(item):
            called = f"{name}#{frame.number:06d}"
            if frame.image is None:
                yield Unreadable(called, f"{called}: the frame is broken and cannot be decoded")
                continue
            rate = None if frame.rate is None else frame.rate / part.every
            yield Picture(called, pixels(frame.image), frame.number, frame.seconds, rate)
    except _FAILURES as error:
        yield Unreadable(name, _reason(name, error))


def _frames(item: Item) -> Iterator[Frame]:
    content, part = item.content, item.part
    if isinstance(content, Camera):
        return frames(content.number, part)
    if isinstance(content, Path) and _gives_frames(content, read_head(content)):
        return frames(content, part)
    if isinstance(content, Address):
        fetched = fetch(content)
        if fetched is None:
            return stream(content, part)
        content = fetched
    if not isinstance(content, Path | io.BytesIO):
        return iter(())
    return _wanted(pages(content), part)


def _wanted(frames_of: Iterator[Frame], part: Part) -> Iterator[Frame]:
    for frame in frames_of:
        if frame.seconds is not None and part.is_over(frame.seconds):
            return
        if part.takes(frame.number, frame.seconds):
            yield frame


# Pillow raises SyntaxError for broken PNGs, EOFError and IndexError for broken animations.
_FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    MemoryError,
    Image.DecompressionBombError,
)


def _gives_frames(path: Path, head: bytes) -> bool:
    """Whether OpenCV is to read a file: a video by its content, or by its name where it is no picture."""
    if is_film(head):
        return True
    return path.suffix.lower() in VIDEO_SUFFIXES and not _is_picture(path)


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path, formats=picture_formats()):
            return True
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return False


def _from_text(text: str, leave_out: Path | None) -> list[Item]:
    """The files that a path, folder or glob stands for, sorted; or a camera, or an address."""
    if is_address(text):
        address = Address(text)
        return [Item(address.shown, address)]
    path = Path(text)
    if path.is_dir():
        return _from_folder(path, leave_out) or [Item(text, Missing(f"{text}: the folder holds no image"))]
    if path.exists():
        return [Item(text, path)]
    if text.isdecimal():
        return [Item(f"camera-{text}", Camera(int(text)))]
    if glob.has_magic(text):
        found = [
            item
            for match in _matches(text, leave_out)
            for item in (_from_folder(match, leave_out) if match.is_dir() else [Item(str(match), match)])
        ]
        return found or [Item(text, Missing(f"{text}: no file matches"))]
    return [Item(text, Missing(f"{text}: there is no such file or folder"))]


def _from_folder(folder: Path, leave_out: Path | None) -> list[Item]:
    listing = list_files(folder, leave_out=_is(leave_out))
    meant = [one for one in listing.files if _is_meant(one)]
    meant = meant or [one for one in listing.files if one.suffix.lower() == NPY]
    files = [Item(str(one), one) for one in meant]
    return files + [Item(str(one), Missing(f"{one}: {reason}")) for one, reason in listing.unread]


def _is_meant(path: Path) -> bool:
    """Whether a file that was not named, but lies in a folder, is a picture or a film."""
    suffix = path.suffix.lower()
    if suffix and suffix not in AMBIGUOUS_SUFFIXES:
        return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES
    try:
        head = read_head(path)
        return is_film(head) or (not suffix and bool(head) and _is_picture(path))
    except OSError:  # one that may not be read, and whose name says nothing
        return False


def _matches(pattern: str, leave_out: Path | None) -> list[Path]:
    """What a glob matches, sorted. Below ``**``, folders are entered as ``list_files`` does: loops end."""
    _before, recursive, _ = pattern.partition("**")
    if not recursive:
        # Not Path.glob: that refuses absolute patterns.
        found = (Path(match) for match in glob.glob(pattern))  # noqa: PTH207
        return sorted(path for path in found if not is_hidden(path.name) and not _is(leave_out)(path))
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:first])
    files = list_files(root, leave_out=_is(leave_out)).files if root.is_dir() else []
    skipped = len(root.parts)
    return [path for path in files if _fits(path.parts[skipped:], parts[first:])]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _is(folder: Path | None) -> Callable[[Path], bool]:
    """Whether a path is this folder."""
    place = None if folder is None else folder.resolve()
    return lambda path: place is not None and path.resolve() == place


def _from_stdin(stream: BinaryIO) -> list[Item | str]:
    """An image, or the sources that lines of text name."""
    content = stream.read()
    if not content.strip():
        reason = "-: nothing came through standard input; expected an image or a list of paths"
        return [Item("-", Missing(reason))]
    try:
        with Image.open(io.BytesIO(content), formats=picture_formats()):
            return [Item("stdin", io.BytesIO(content))]
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        separator = b"\0" if b"\0" in content else b"\n"
        names = [os.fsdecode(line.strip(b"\r\n")) for line in content.split(separator)]
        names = [name for name in names if name.strip()]
        if not all(_is_name(name) for name in names):
            reason = "-: standard input holds neither an image that can be read nor a list of paths"
            _log.debug("standard input: %s", error)
            return [Item("-", Missing(reason))]
    return [*names]


def _is_name(text: str) -> bool:
    """Whether a line can be a file's name: what can be printed, or names a file, in whatever bytes."""
    return text.isprintable() or os.path.lexists(text)


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"{name}: needs more memory than there is"
    said = " ".join(str(error).split()) or type(error).__name__
    return said if said.startswith(name) else f"{name}: {said}"
