"""Files that are there whole or not at all, and what they hold as one number. Nothing of this package is imported."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_RENAMES, _PAUSE = 20, 0.1  # tries and seconds between them, on Windows


def sha256(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write ``path`` through a file beside it: even after a kill, the old or the whole new one is there.

    Yields:
        A temporary path to write; on leaving it is flushed to the disk and renamed over ``path``.

    Raises:
        OSError: as the file system gives it; ``path`` is unchanged then and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the process's umask gives; some writers make private files
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text through ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _rename(temporary: Path, path: Path) -> None:
    """On Windows a file cannot be replaced while someone looks at it, as virus scanners do for a moment."""
    for _ in range(_RENAMES if sys.platform == "win32" else 0):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(_PAUSE)
        else:
            return
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; not every file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
