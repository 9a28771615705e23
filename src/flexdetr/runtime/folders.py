"""What lies in a folder: every file below it, in one order, links followed, hidden and system files passed over."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# What Pillow reads as a picture; .heic and .heif with its plugin pillow-heif.
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
    )
) | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif"}
# Of numbers, which are pictures only where they are named, or where there is no other: programs keep caches of them.
NPY: Final = ".npy"
# macOS, Synology, Windows and file systems leave these between the files of a person.
_HELPERS = frozenset(
    (
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    )
)


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
        files: sorted by their parts; a file in a linked folder has the link in its path.
        passed_over: hidden files and folders, other systems' helpers, and what the caller left out.
        unread: folders that could not be listed, and links that lead nowhere, each with the reason.
    """

    files: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, str]] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file's or folder's name says that no person put it there to be used."""
    return name.startswith(".") or name.lower() in _HELPERS


def list_files(root: str | Path, *, leave_out: Callable[[Path], bool] | None = None) -> Listing:
    """Every regular file below a folder.

    Links to files and folders are followed. No folder is entered again below itself, and inside a linked folder no
    further link leads to a folder that was listed already: the work stays bounded, however the links lie.

    The root's own name may be a hidden one. ``leave_out`` is told each folder below it; True passes that folder
    over.

    Returns:
        The files; where the root itself cannot be listed, that is in ``unread``.
    """
    listing = Listing()
    _Walk(listing, leave_out).enter(Path(root), (), linked=False)
    return listing


_Identity = tuple[int, int] | str


@dataclass
class _Walk:
    listing: Listing
    leave_out: Callable[[Path], bool] | None
    seen: set[_Identity] = field(default_factory=set)

    def enter(self, folder: Path, above: tuple[_Identity, ...], *, linked: bool) -> None:
        """List a folder; ``above`` are the folders around it, ``linked`` says that a link led here."""
        try:
            identity = _identity(folder)
            if identity in above:
                return
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.listing.unread.append((folder, error.strerror or str(error)))
            return
        self.seen.add(identity)
        for entry in found:
            path = folder / entry.name
            if is_hidden(entry.name):
                self.listing.passed_over.append(path)
            elif _is_dir(entry):
                self._enter_below(path, (*above, identity), linked=linked, link=entry.is_symlink())
            elif _is_file(entry):
                self.listing.files.append(path)
            elif entry.is_symlink() and not path.exists():
                self.listing.unread.append((path, "a link that leads nowhere"))

    def _enter_below(self, path: Path, above: tuple[_Identity, ...], *, linked: bool, link: bool) -> None:
        if self.leave_out is not None and self.leave_out(path):
            self.listing.passed_over.append(path)
        elif not (linked and link and _identity(path) in self.seen):
            self.enter(path, above, linked=linked or link)


def _identity(folder: Path) -> _Identity:
    """The same for every path to a folder."""
    status = folder.stat()
    # Some network file systems number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else str(folder.resolve())


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or through a folder that may not be read
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
