"""Fixtures for reading data: the shared real images, and makers of small data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from flexdetr.data.dataset import Record

# Two busy cores make a deadline a matter of luck.
settings.register_profile("data", deadline=None, max_examples=50)
settings.load_profile("data")

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """``write_image(path, width, height, seed=0)`` writes a noisy picture of any format that the suffix names."""

    def write(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def write_coco(write_image) -> Callable[..., Path]:
    """``write_coco(path, {"a.png": [(category, x, y, w, h), ...]}, {id: name})`` writes images and annotations."""

    def write(path: Path, images: dict[str, list[tuple]], names: dict[int, str], /, **changes) -> Path:
        document = {"images": [], "annotations": [], "categories": []}
        document["categories"] = [{"id": number, "name": name} for number, name in names.items()]
        for number, (name, boxes) in enumerate(images.items(), start=100):
            write_image(path.parent / name, seed=number)
            document["images"].append({"id": number, "file_name": name, "width": 40, "height": 30})
            for category, *bbox in boxes:
                annotation = {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category,
                }
                document["annotations"].append(
                    {**annotation, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
                )
        document |= changes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_voc() -> Callable[..., Path]:
    """``write_voc(path, [("cat", xmin, ymin, xmax, ymax), ...])`` writes one XML file, one tag a line."""

    def write(
        path: Path, objects: list[tuple], size: tuple[int, int] | None = (40, 30), encoding="utf-8"
    ) -> Path:
        lines = ["<annotation>", f"<filename>{path.stem}.png</filename>"]
        if size is not None:
            lines += [f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"]
        for name, *corners in objects:
            lines += ["<object>", f"<name>{name}</name>", "<difficult>0</difficult>", "<bndbox>"]
            tags = ("xmin", "ymin", "xmax", "ymax")
            lines += [f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners, strict=True)]
            lines += ["</bndbox>", "</object>"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n".join([*lines, "</annotation>"]).encode(encoding))
        return path

    return write


@pytest.fixture
def write_yolo(write_image) -> Callable[..., Path]:
    """``write_yolo(root, {"train": {"a.png": ["0 0.5 0.5 0.2 0.2"]}}, yaml_text)``; None writes no label file."""

    def write(root: Path, splits: dict[str, dict[str, list[str] | None]], yaml_text: str) -> Path:
        seed = 0
        for split, images in splits.items():
            for name, lines in images.items():
                seed += 1
                write_image(root / split / "images" / name, seed=seed)
                labels = (root / split / "labels" / name).with_suffix(".txt")
                labels.parent.mkdir(parents=True, exist_ok=True)
                if lines is not None:
                    labels.write_text("\n".join(lines), encoding="utf-8")
        (root / "data.yaml").write_text(yaml_text, encoding="utf-8")
        return root

    return write


@pytest.fixture
def records(tmp_path, write_image) -> tuple[Record, ...]:
    """Eleven small images with 0 to 4 objects of three classes; the first has none."""
    made = []
    rng = np.random.default_rng(7)
    for number in range(11):
        width, height = 60 + 7 * number, 90 - 3 * number
        path = write_image(tmp_path / "images" / f"{number}.png", width, height, seed=number)
        count = number % 5
        corners = rng.uniform(0, 0.6, (count, 2))
        sides = rng.uniform(0.15, 0.4, (count, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1) * [width, height, width, height]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        made.append(
            Record(
                path,
                f"image-{number}",
                width,
                height,
                boxes.astype(np.float32),
                rng.integers(0, 3, count),
                np.zeros(count, dtype=np.bool_),
                areas.astype(np.float32),
            )
        )
    return tuple(made)
