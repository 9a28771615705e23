"""Lay annotated scenes of `make demo` side by side into docs/images/demo.jpg, the picture of the README."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

_ROOT = Path(__file__).parents[1]
_COLUMNS, _ROWS, _SIDE = 4, 2, 320


def main() -> None:
    """Take the first pictures of the demonstration, as they come."""
    files = sorted((_ROOT / "demo" / "pictures").glob("*.jpg"))[: _COLUMNS * _ROWS]
    if len(files) < _COLUMNS * _ROWS:
        raise SystemExit("run `make demo` first")
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, _ROWS * _SIDE))
    for index, file in enumerate(files):
        place = (index % _COLUMNS * _SIDE, index // _COLUMNS * _SIDE)
        sheet.paste(Image.open(file).resize((_SIDE, _SIDE)), place)
    target = _ROOT / "docs" / "images" / "demo.jpg"
    target.parent.mkdir(exist_ok=True)
    sheet.save(target, quality=82)


if __name__ == "__main__":
    main()
