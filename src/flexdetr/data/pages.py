"""Document pages that the package can draw for itself, to train and check what tells a page's orientation.

Pages are written in the scripts for which fonts are installed, in many layouts, and then scanned or photographed. Fonts
and layouts of the held-out pages occur in no page to train on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from flexdetr.data.page_fonts import Face, faces
from flexdetr.data.page_layouts import HELD_OUT, LANDSCAPE, NARROW, TRAIN, columns_down
from flexdetr.data.page_scans import photograph, stamp
from flexdetr.data.page_writing import Ink, Sheet

# Latin script is most of what is scanned; every other one is as likely as any.
_LATIN_SHARE: Final = 0.45
_SHORT_SIDE: Final = 400  # pixels of a page while it is drawn
_HELD_OUT: Final = frozenset(("val", "test"))


def draw_pages(
    root: Path | str,
    *,
    train: int = 2000,
    val: int = 100,
    test: int = 200,
    short_side: int = 320,
    seed: int = 0,
) -> Path:
    """Write folders of upright pages: ``train``, ``val`` and ``test``, each with ``page_00001.jpg`` and so on.

    The same arguments and fonts give the same files. A page depends on the seed, its split and its number only.
    Validation and test pages have layouts and fonts that no training page has.

    Args:
        root: the folder to write to; made if missing.
        train: pages to train on.
        val: pages to validate on.
        test: pages held out.
        short_side: pixels of each page's shorter side, at least 64.
        seed: decides everything.

    Returns:
        The folder.

    Raises:
        ValueError: if a count is negative or the side too short.
        FontError: if no font is installed.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0:
        raise ValueError(f"the number of pages cannot be negative, got {counts}")
    if short_side < 64:
        raise ValueError(f"a page must be at least 64 pixels wide, got short_side={short_side}")
    root = Path(root)
    for split, count in counts.items():
        if count:
            (root / split).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
            page = draw_page(rng, held_out=split in _HELD_OUT)
            scale = short_side / min(page.size)
            size = (max(short_side, round(page.width * scale)), max(short_side, round(page.height * scale)))
            page = page.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR)
            page.save(root / split / f"page_{number:05d}.jpg", quality=int(rng.integers(45, 92)))
    return root


def draw_page(rng: np.random.Generator, *, held_out: bool = False) -> Image.Image:
    """Draw one page as a scanner or a camera gives it, upright within a few degrees.

    Returns:
        RGB; the shorter side has some 400 pixels.

    Raises:
        FontError: if no font is installed.
    """
    known = faces(held_out=held_out)
    face = _face(rng, known)
    layouts = HELD_OUT if held_out else TRAIN
    layout = layouts[int(rng.integers(len(layouts)))]
    if layout is columns_down:  # of the scripts that have columns, where one of them is there
        down = {name: found for name, found in known.items() if found[0].script.columns}
        face = _face(rng, down or known)
    others = known[face.script.name]
    title_face = others[int(rng.integers(len(others)))]
    ratio = float(rng.uniform(1.2, 1.5))
    if layout in LANDSCAPE:
        ratio = 1 / float(rng.uniform(1.25, 1.8))
    elif layout in NARROW:
        ratio = float(rng.uniform(1.3, 2.3))
    elif rng.random() < 0.15:
        ratio = 1 / ratio
    width, height = _SHORT_SIDE, round(_SHORT_SIDE * ratio)
    if ratio < 1:
        width, height = round(_SHORT_SIDE / ratio), _SHORT_SIDE
    paper, ink, accent = _colours(rng)
    sheet = Sheet(
        Image.new("RGB", (width, height), paper),
        rng,
        face,
        title_face,
        ink,
        accent,
        vertical=bool(rng.random() < 0.6),
    )
    layout(sheet)
    if rng.random() < 0.15:
        stamp(rng, sheet.image)
    return photograph(rng, sheet.image)


def _face(rng: np.random.Generator, known: Mapping[str, tuple[Face, ...]]) -> Face:
    names = list(known)
    if "Latin" in known and rng.random() < _LATIN_SHARE:
        names = ["Latin"]
    choice = known[names[int(rng.integers(len(names)))]]
    return choice[int(rng.integers(len(choice)))]


def _colours(rng: np.random.Generator) -> tuple[Ink, Ink, Ink]:
    """Of the paper, the text and headings; a few pages are light on dark."""
    paper = tuple(int(v) for v in rng.integers(228, 256, 3)) if rng.random() < 0.5 else (255, 255, 255)
    ink = tuple(int(v) for v in np.full(3, rng.integers(0, 90)))
    accent = tuple(int(v) for v in rng.integers(0, 170, 3)) if rng.random() < 0.4 else ink
    if rng.random() < 0.06:
        paper, ink = tuple(255 - v for v in paper), tuple(255 - v for v in ink)
        accent = tuple(255 - v for v in accent)
    return paper, ink, accent  # type: ignore[return-value]
