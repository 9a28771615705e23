"""Write docs/images/photographs.jpg, the picture of the README: four photographs with what a checkpoint finds in them.

python scripts/front_picture.py runs/flexdetr_lite0/best.safetensors PHOTO PHOTO PHOTO PHOTO
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import flexdetr
from flexdetr.draw import annotate, contact_sheet

_TARGET = Path(__file__).parents[1] / "docs" / "images" / "photographs.jpg"


def main() -> None:
    """Find, draw and lay side by side."""
    if len(sys.argv) != 6:
        raise SystemExit(__doc__)
    detector = flexdetr.load(sys.argv[1])
    drawn = []
    for file in sys.argv[2:]:
        photo = Image.open(file).convert("RGB")
        drawn.append(annotate(photo, detector.predict(photo)))
    contact_sheet(drawn, 2, cell=560).save(_TARGET, quality=84, optimize=True)


if __name__ == "__main__":
    main()
