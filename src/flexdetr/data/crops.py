"""Objects of a detection data set as pictures of their own, in a folder for each class."""

from __future__ import annotations

import math
import re
from pathlib import Path

from PIL import Image

from flexdetr.data.dataset import DataError
from flexdetr.data.detect import read
from flexdetr.data.images import read_image
from flexdetr.runtime.middle import SEEN

# Nobody can tell what is smaller, in pixels of a side.
_LEAST = 8


def cut_out(
    data: str | Path, out: str | Path, *, val_fraction: float = 0.15, seed: int = 0
) -> dict[str, int]:
    """Writes each labelled object as ``OUT/SPLIT/CLASS/PICTURE-N.png``, a data set of a classifier.

    A picture is the square around the object whose middle, which a classifier is shown, has all of it.

    Objects of one picture stay in one split. Crowd regions, and objects of less than 8 pixels on a side, are left out.

    ``val_fraction`` is the share of the training pictures whose objects become the validation split if there is
    none.

    Returns:
        How many objects there are of each split.

    Raises:
        DataError: if the data cannot be used, has no objects, or ``out`` holds something.
        ImageError: if a picture cannot be read.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds files already; objects are cut out into a new folder")
    dataset = read(data, val_fraction=val_fraction, seed=seed)
    folders = _folder_names(dataset.classes.names)
    counts: dict[str, int] = {}
    for split, records in dataset.splits.items():
        counts[split] = 0
        for number, record in enumerate(records):
            image = None
            for place, (box, label) in enumerate(zip(record.boxes_xyxy, record.labels, strict=True)):
                x0, y0, x1, y1 = (
                    math.floor(box[0]),
                    math.floor(box[1]),
                    math.ceil(box[2]),
                    math.ceil(box[3]),
                )
                if record.iscrowd[place] or min(x1 - x0, y1 - y0) < _LEAST:
                    continue
                image = read_image(record.path) if image is None else image
                x0, y0, x1, y1 = _around((x0, y0, x1, y1), image.shape[1], image.shape[0])
                folder = out / split / folders[int(label)]
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{record.path.stem}-{number}-{place}.png"
                Image.fromarray(image[y0:y1, x0:x1]).save(folder / name, compress_level=1)
                counts[split] += 1
    if not sum(counts.values()):
        raise DataError(f"{dataset.root} has no objects that could be cut out")
    return counts


def _around(box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The square around an object whose middle, which a classifier is shown, has all of it.

    It is moved into the picture, where a sixteenth of the square's side may then be out of the middle, and it is no
    larger than the picture.
    """
    side = math.ceil(max(box[2] - box[0], box[3] - box[1]) / SEEN)

    def placed(first: int, last: int, most: int) -> tuple[int, int]:
        length = min(side, most)
        start = min(max((first + last - length) // 2, 0), most - length)
        return start, start + length

    (left, right), (top, bottom) = placed(box[0], box[2], width), placed(box[1], box[3], height)
    return left, top, right, bottom


def _folder_names(names: tuple[str, ...]) -> list[str]:
    """The classes' names as names of folders."""
    plain = [re.sub(r"[^\w .-]", "_", name).strip(" .") or "_" for name in names]
    return [name if plain.count(name) == 1 else f"{name} {place}" for place, name in enumerate(plain)]
