"""Which of Pillow's formats are opened: what a file is, is decided by its content, whatever its name says."""

from __future__ import annotations

from typing import Final

from PIL import Image

# PostScript is handed to Ghostscript, which runs it, and metafiles to Windows: a picture is no program here.
_PROGRAMS: Final = frozenset(("EPS", "WMF"))

# Pillow imports its rarer formats when a file is none of the usual ones. Two threads that meet there disturb each
# other: one takes the other's half of the list for all there is, and a good file "is no image".
Image.init()


def picture_formats() -> list[str]:
    """Names for ``Image.open(formats=...)``, those of plugins among them that the person registered."""
    return [name for name in Image.ID if name not in _PROGRAMS]
