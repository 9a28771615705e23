"""What the files that belong to a picture are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flexdetr.runtime.addresses import is_address

_LONGEST_STEM: Final = 150  # characters, of at most four bytes or so; file systems take 255 bytes


def file_name(name: str) -> str:
    """A name without folders, and of an address without what is no name; of a frame with its number behind a ``#``.

    Args:
        name: as of ``Picture``.
    """
    file, _, frame = name.rpartition("#")
    if is_address(name):
        place = urlsplit(file or name)
        name = f"{Path(place.path).name or place.hostname}{f'#{frame}' if file else ''}"
    return Path(os.fsencode(name).decode("utf-8", "replace").replace("\ufffd", "_")).name


def stem_of(name: str) -> str:
    """What goes before the suffix: ``photo``, or ``film-000012``.

    Args:
        name: as ``file_name`` gives it.
    """
    file, _, frame = name.rpartition("#")
    return f"{Path(file).stem[:_LONGEST_STEM]}-{frame}" if file else Path(name).stem[:_LONGEST_STEM]
