"""Fonts for names in any script: Pillow's own where it has the letters, else one that is installed."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_log = logging.getLogger(__name__)

VARIABLE: Final = "FLEXDETR_FONT"
"""Environment variable; a font's file, tried before those that are installed."""

_SUFFIXES: Final = frozenset((".ttf", ".otf", ".ttc", ".otc"))
# Tried first, of those that are installed: plain ones with many scripts.
_PREFERRED: Final = (
    "notosanscjk-regular", "notosans-regular", "sourcehansans-regular", "wqy-", "dejavusans.", "arialuni", "arial.",
    "segoeui.", "msyh", "msgothic", "malgun.", "pingfang", "hiragino", "applesdgothic", "droidsansfallback",
    "liberationsans-regular", "freesans.", "notosans",
)  # fmt: skip
_AVOIDED: Final = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif", "condensed")
_TRIED: Final = 500  # files at most, for a name that no font has
# A noncharacter: every font draws for it what it draws for letters that it lacks.
_NO_LETTER: Final = "\U0010ffff"


def font_for(text: str, size: int) -> Font | None:
    """A font with every letter of a text.

    ``size`` is that of the letters in pixels.

    Returns:
        Pillow's own where that suffices; None if no installed font has them all, which is said once.
    """
    own = ImageFont.load_default(size)
    letters = frozenset(text)
    if not isinstance(own, ImageFont.FreeTypeFont):  # Pillow was built without FreeType
        return own if text.isascii() else None
    if all(draws(own, letter) for letter in letters):
        return own
    file = _installed_with(letters)
    return None if file is None else _opened(file, size)


@functools.lru_cache(maxsize=4096)
def _installed_with(letters: frozenset[str]) -> str | None:
    """The file of the first installed font that has all letters."""
    for file in _files():
        if all(_has(file, letter) for letter in letters):
            return file
    shown = "".join(sorted(letter for letter in letters if not letter.isascii()))
    _log.warning(
        "no installed font has all of %r: class ids are written instead; install one, like Noto Sans CJK, or name its "
        "file in %s",
        shown,
        VARIABLE,
    )
    return None


@functools.lru_cache(maxsize=16384)
def _has(file: str, letter: str) -> bool:
    font = _opened(file, 20)
    return font is not None and draws(font, letter)


def draws(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether a font has a letter: what it draws for it is not what it draws for those that it lacks.

    Every font has white space.
    """
    if letter.isspace():
        return True
    drawn, lacking = font.getmask(letter), font.getmask(_NO_LETTER)
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)


@functools.lru_cache(maxsize=64)
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(file, size)
    except (OSError, ValueError):  # bitmap fonts, and damaged files
        return None


def installed_files() -> tuple[Path, ...]:
    """The files of all fonts that are installed, sorted by name."""
    found = {path for folder in _folders() for path in _below(folder)}
    return tuple(sorted(found, key=lambda path: (path.name, str(path))))


@functools.cache
def _files() -> tuple[str, ...]:
    """Files of fonts, the most fitting first."""
    named = os.environ.get(VARIABLE, "")
    found = sorted(installed_files(), key=_order)[:_TRIED]
    return ((named,) if named else ()) + tuple(map(str, found))


def _order(path: Path) -> tuple[int, int, str]:
    name = path.name.lower()
    wanted = next((place for place, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED))
    return sum(word in name for word in _AVOIDED), wanted, name


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        own = [Path(local) / "Microsoft/Windows/Fonts"] if local else []
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", *own]
    data = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path(data) / "fonts", home / ".fonts"]


def _below(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names if Path(name).suffix.lower() in _SUFFIXES)
