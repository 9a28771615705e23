"""Seconds to read data sets of several sizes, in each format: twice the images should take twice as long.

    python benchmarks/reading.py --sizes 16000 32000

Every image is a link to the same small one, with two boxes; names repeat in folders, as cameras give them. The
processor's time of this process is shown, which other work on the machine moves less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from flexdetr.data.check import check
from flexdetr.data.detect import read
from measure import machine

FOLDERS = 50


def places(count: int) -> list[str]:
    """Names of images, in folders, without a suffix."""
    return [f"cam{number % FOLDERS}/{number // FOLDERS:06d}" for number in range(count)]


def link(picture: Path, images: Path, names: list[str]) -> None:
    """The same picture under many names."""
    for folder in range(FOLDERS):
        (images / f"cam{folder}").mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(picture, images / f"{name}.jpg")


def coco(root: Path, picture: Path, count: int) -> None:
    """One JSON file."""
    names = places(count)
    link(picture, root / "train", names)
    images = [
        {"id": number, "file_name": f"{name}.jpg", "width": 32, "height": 24}
        for number, name in enumerate(names)
    ]
    boxes = [
        {
            "id": number,
            "image_id": number // 2,
            "category_id": 1,
            "bbox": [4, 4, 8, 8],
            "area": 64,
            "iscrowd": 0,
        }
        for number in range(2 * count)
    ]
    (root / "annotations").mkdir()
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "bolt"}]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(document))


def yolo(root: Path, picture: Path, count: int) -> None:
    """Label files beside image folders, and a list of images."""
    names = places(count)
    link(picture, root / "images", names)
    for folder in range(FOLDERS):
        (root / "labels" / f"cam{folder}").mkdir(parents=True)
    for name in names:
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n0 0.2 0.2 0.1 0.1\n")
    (root / "train.txt").write_text("".join(f"./images/{name}.jpg\n" for name in names))
    (root / "data.yaml").write_text("path: .\ntrain: train.txt\nnames: [bolt]\n")


def voc(root: Path, picture: Path, count: int) -> None:
    """An XML file per image, in folders as the images."""
    names = places(count)
    link(picture, root / "JPEGImages", names)
    for folder in range(FOLDERS):
        (root / "Annotations" / f"cam{folder}").mkdir(parents=True)
    box = "<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>12</xmax><ymax>12</ymax></bndbox>"
    part = f"<object><name>bolt</name>{box}</object>"
    for name in names:
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name.partition('/')[2]}.jpg</filename>"
            f"<size><width>32</width><height>24</height></size>{part}{part}</annotation>"
        )


FORMATS: dict[str, Callable[[Path, Path, int], None]] = {"coco": coco, "yolo": yolo, "voc": voc}


def seconds(work: Callable[[], object]) -> float:
    """Of the processor."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--sizes", type=int, nargs="+", default=[16_000, 32_000])
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS], default=[*FORMATS])
    parser.add_argument(
        "--check", action="store_true", help="also decode every image, as `flexdetr check` does"
    )
    arguments = parser.parse_args()
    print(machine())
    print("| format | images | boxes | read, s | s per 1,000 images | check, s |")
    print("|---|---|---|---|---|---|")
    for name in arguments.formats:
        for count in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                picture, root = Path(folder) / "one.jpg", Path(folder) / "data"
                Image.new("RGB", (32, 24)).save(picture)
                FORMATS[name](root, picture, count)
                spent = seconds(lambda root=root: read(root))  # type: ignore[misc]
                dataset = read(root) if arguments.check else None
                boxes = 2 * count if dataset is None else sum(map(len, sum(dataset.splits.values(), ())))
                checked = f"{seconds(lambda root=root: check(root)):.1f}" if arguments.check else "-"  # type: ignore[misc]
            print(
                f"| {name} | {count} | {boxes} | {spent:.1f} | {1000 * spent / count:.3f} | {checked} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
