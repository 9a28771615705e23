"""Annotation files as text, whatever their encoding."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path
from typing import Final

LONGEST: Final = 256 * 2**20  # bytes of a label, XML or list file
JSON_LONGEST: Final = 4 * 2**30  # bytes; the largest public annotation files have some gigabytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class TextError(ValueError):
    """A text file that cannot be read; the message says why, without the file's name."""


def read_text(path: Path, *, most: int = LONGEST) -> str:
    """The content of a text file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Without a mark the zero bytes tell: text of these formats begins with an ASCII character. An XML file that
    states another encoding is read in it.

    Devices and pipes, which may never end or never answer, are refused, and before it is read a file of more
    than ``most`` bytes.

    Raises:
        TextError: if the file cannot be opened, is too large or fits none of the encodings.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TextError("is not a regular file")
        if status.st_size > most:
            raise TextError(f"has {status.st_size:,} bytes; {most:,} are the most that is read")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TextError("file not found") from None
    except (OSError, ValueError) as error:
        if isinstance(error, TextError):
            raise
        raise TextError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _decode(raw[len(mark) :], encoding)
    if len(raw) >= 2 and 0 in raw[:2]:
        return _decode(raw, "utf-16-le" if raw[1] == 0 else "utf-16-be")
    stated = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([A-Za-z0-9_.\-]+)[\"']", raw)
    return _decode(raw, stated[1].decode("ascii") if stated else "utf-8")


def _decode(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except (ValueError, LookupError) as error:  # bytes that do not fit, and encodings that are none of text
        raise TextError(f"is not readable as {encoding.upper()} text: {error}; save it as UTF-8") from error
