"""The fonts of drawn pages: which of those that are installed write which script, apart for training and held out."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from flexdetr.data.page_scripts import SCRIPTS, Script
from flexdetr.runtime.fonts import draws, installed_files

_log = logging.getLogger(__name__)

# Of the collection NotoSansCJK, whose fonts differ by region; the first is Japan's.
_REGIONS = {"Japanese": 0, "Korean": 1, "Chinese": 2}

# Share of a script's letters that a font needs: of Latin ones, few hand-written fonts have every accent.
_LETTERS = 0.95


class FontError(ValueError):
    """No font is installed that pages could be written with; the message names a package."""


@dataclass(frozen=True)
class Face:
    """A font's file for one script."""

    script: Script
    file: str
    number: int = 0

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font with letters of ``size`` pixels."""
        return _opened(self.file, self.number, size, self.script.shaped)

    def width(self, word: str, size: int) -> float:
        """How many pixels wide a word is."""
        return _width(self, word, size)

    def drawn(self, word: str, size: int) -> tuple[Image.Image, int, int]:
        """A word's ink (mode L), and how far right of its beginning and below the line's top it is."""
        return _drawn(self, word, size)


@functools.cache
def faces(*, held_out: bool) -> dict[str, tuple[Face, ...]]:
    """The installed fonts by the name of their script.

    No font of those for held-out pages is among the others.

    Returns:
        scripts without a font are missing, which is said once, with Debian's package that has one.

    Raises:
        FontError: if no script has a font.
    """
    files = installed_files()
    raqm = features.check("raqm")
    found: dict[str, tuple[Face, ...]] = {}
    missing: list[Script] = []
    for script in SCRIPTS:
        beginnings = script.held_out if held_out else script.train
        chosen = [path for path in files if path.name.startswith(beginnings) and not _is_faint(path)]
        named = [_face(script, str(path)) for path in chosen] if raqm or not script.shaped else []
        able = tuple(face for face in named if _writes(face))
        if able:
            found[script.name] = able
        else:
            missing.append(script)
    what = "held-out pages" if held_out else "pages to train on"
    if not found:
        raise FontError(
            f"no font for {what} is installed; install one, like Debian's {SCRIPTS[0].package}, or name none of its "
            "scripts"
        )
    if missing:
        names = ", ".join(f"{script.name} ({script.package})" for script in missing)
        _log.warning("%s are drawn without %s: no font for them is installed", what, names)
    return found


def _is_faint(path: Path) -> bool:
    return any(word in path.stem for word in ("Thin", "Hairline"))


def _writes(face: Face) -> bool:
    """Whether a font has the script's letters; a family's bold or fixed-width file may lack what its plain one has."""
    letters = {letter for text in face.script.texts for letter in text if letter.isalpha()}
    font = face.at(20)
    return sum(draws(font, letter) for letter in letters) >= _LETTERS * len(letters)


def _face(script: Script, file: str) -> Face:
    collection = file.lower().endswith(".ttc") and "CJK" in file
    return Face(script, file, _REGIONS.get(script.name, 0) if collection else 0)


@functools.lru_cache(maxsize=1024)
def _opened(file: str, number: int, size: int, shaped: bool) -> ImageFont.FreeTypeFont:
    layout = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(file, size, index=number, layout_engine=layout)


@functools.lru_cache(maxsize=65536)
def _width(face: Face, word: str, size: int) -> float:
    return face.at(size).getlength(word)


@functools.lru_cache(maxsize=8192)
def _drawn(face: Face, word: str, size: int) -> tuple[Image.Image, int, int]:
    font = face.at(size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(word))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), word, font=font, fill=255)
    return mask, left, top
