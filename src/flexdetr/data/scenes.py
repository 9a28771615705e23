"""A data set that the package can draw for itself: scenes of six kinds of object on textured grounds.

It serves the demonstration, tests and checks of exports, where no real pictures are at hand. The scenes are
not trivial: objects vary in size, colour and turn, cover each other and leave the picture, light and shadows
differ, and grounds have colours and edges of their own. Labels are exact, for they follow from what was
drawn.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from flexdetr.classes import Classes
from flexdetr.data.scene_shapes import SHAPES, Sprite, render
from flexdetr.data.scene_textures import Picture, as_image, draw_background, smooth_noise

# Ids start at 1 and leave out 4, as data sets in the field do: whatever mistakes ids for indices fails here.
CLASSES = Classes(tuple(SHAPES), (1, 2, 3, 5, 6, 7))

LENGTHS = (0.15, 0.5)  # the shortest and the longest object, as shares of the picture's shorter side
OBJECTS = (3, 7)  # the fewest and the most of a scene that has any
MIN_VISIBLE = 0.6  # share of an object that must be seen
EMPTY_SHARE = 0.05  # scenes without objects
TRIES_TO_PLACE = 12


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture with its labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 pixels, tight around the visible part of each object.
        labels: (N,) int64 indices into ``CLASSES``.
        areas: (N,) float32, visible pixels of each object.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Placed:
    """An object in its place: the window of the picture that its sprite covers."""

    sprite: Sprite
    top: int
    left: int
    label: int
    box_xyxy: tuple[int, int, int, int]
    area: int


def draw_scenes(
    root: Path | str,
    *,
    train: int = 400,
    val: int = 60,
    test: int = 100,
    size: tuple[int, int] = (320, 320),
    lengths: tuple[float, float] = LENGTHS,
    objects: tuple[int, int] = OBJECTS,
    seed: int = 0,
) -> Path:
    """Write a data set in COCO's form: ``annotations/instances_<split>.json`` and ``<split>/*.jpg``.

    The same arguments give the same files. A scene depends on the seed, its split and its number only, so
    that more scenes of one split leave the others as they were.

    Args:
        root: the folder to write to; made if missing.
        train: scenes to train on.
        val: scenes to validate on.
        test: scenes held out.
        size: (height, width) of the pictures in pixels, at least 96 each.
        lengths: the shortest and the longest object, as shares of the picture's shorter side.
        objects: the fewest and the most objects of a scene that has any.
        seed: decides everything.

    Returns:
        The folder.

    Raises:
        ValueError: if a count is negative, the size too small, or a range empty.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 0:
        raise ValueError(f"the number of scenes cannot be negative, got {counts}")
    root = Path(root)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        if count:
            document = _draw_split(root / split, count, size, lengths, objects, seed)
            text = json.dumps(document)
            (root / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return root


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int] = (320, 320),
    *,
    lengths: tuple[float, float] = LENGTHS,
    objects: tuple[int, int] = OBJECTS,
) -> Scene:
    """Draw one scene.

    Args:
        rng: decides everything.
        size: (height, width) in pixels, at least 96 each.
        lengths: the shortest and the longest object, as shares of the picture's shorter side.
        objects: the fewest and the most objects of a scene that has any; fewer where there is no room.

    Raises:
        ValueError: if the size is too small, or a range empty.
    """
    height, width = size
    if not 0 < lengths[0] <= lengths[1] <= 1:
        raise ValueError(f"lengths must be two shares of the side, the smaller first, got {lengths}")
    if not 1 <= objects[0] <= objects[1]:
        raise ValueError(f"objects must be two numbers from 1 up, the smaller first, got {objects}")
    if min(size) < 96:
        raise ValueError(f"a scene must be at least 96 pixels high and wide, got {height} x {width}")
    canvas = draw_background(rng, height, width)
    direction = rng.uniform(0, 2 * np.pi)
    light = (float(np.cos(direction)), float(np.sin(direction)))
    placed = _place_objects(rng, size, light, lengths, objects)
    for one in reversed(placed):  # the last placed lies at the bottom
        _cast_shadow(canvas, one, light, strength=float(rng.uniform(0.2, 0.5)))
        _paste(canvas, one)
    image = _photograph(rng, canvas, light)
    return Scene(
        image,
        np.array([one.box_xyxy for one in placed], np.float32).reshape(-1, 4),
        np.array([one.label for one in placed], np.int64),
        np.array([one.area for one in placed], np.float32),
    )


def _draw_split(
    folder: Path,
    count: int,
    size: tuple[int, int],
    lengths: tuple[float, float],
    objects: tuple[int, int],
    seed: int,
) -> dict[str, Any]:
    """Draw one split's pictures and return its COCO document."""
    folder.mkdir(exist_ok=True)
    split = zlib.crc32(folder.name.encode())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, split, number])
        scene = draw_scene(rng, size, lengths=lengths, objects=objects)
        name = f"scene_{number:05d}.jpg"
        Image.fromarray(scene.image).save(folder / name, quality=92)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for box, label, area in zip(
            scene.boxes_xyxy.tolist(), scene.labels.tolist(), scene.areas.tolist(), strict=True
        ):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CLASSES.ids[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": 0,
                }
            )
    info = {"description": f"Scenes drawn by FlexDETR, seed {seed}, split {folder.name}"}
    return {"info": info, "images": images, "annotations": annotations, "categories": CLASSES.to_json()}


def _place_objects(
    rng: np.random.Generator,
    size: tuple[int, int],
    light: tuple[float, float],
    lengths: tuple[float, float],
    objects: tuple[int, int],
) -> list[_Placed]:
    """Find places for a random number of objects, the topmost first, so that each is seen well enough."""
    covered = np.zeros(size, bool)
    placed: list[_Placed] = []
    shortest, longest = lengths
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(objects[0], objects[1] + 1))
    for _ in range(count):
        label = int(rng.integers(len(CLASSES)))
        length = min(size) * shortest * (longest / shortest) ** (rng.random() ** 0.8)
        sprite = render(
            SHAPES[CLASSES.names[label]](rng), length / 2, float(rng.uniform(0, 2 * np.pi)), light
        )
        for _ in range(TRIES_TO_PLACE):
            one = _try_place(rng, sprite, label, covered, placed)
            if one is not None:
                placed.append(one)
                window, mask = _visible_window(one, size)
                covered[window] |= mask
                break
    return placed


def _try_place(
    rng: np.random.Generator, sprite: Sprite, label: int, covered: NDArray[np.bool_], placed: list[_Placed]
) -> _Placed | None:
    """Put a sprite below the objects so far, often near one of them; None if too little of it would show."""
    height, width = covered.shape
    side = sprite.alpha.shape[0]
    if placed and rng.random() < 0.35:
        x0, y0, x1, y1 = placed[int(rng.integers(len(placed)))].box_xyxy
        distance = 0.42 * ((x1 - x0 + y1 - y0) / 2 + side)
        angle = rng.uniform(0, 2 * np.pi)
        y, x = (y0 + y1) / 2 + distance * np.sin(angle), (x0 + x1) / 2 + distance * np.cos(angle)
    else:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
    one = _Placed(sprite, round(y - side / 2), round(x - side / 2), label, (0, 0, 0, 0), 0)
    window, mask = _visible_window(one, (height, width))
    seen = mask & ~covered[window]
    area = int(np.count_nonzero(seen))
    if area < MIN_VISIBLE * np.count_nonzero(sprite.alpha > 0.5) or area < 60:
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, left = window[0].start, window[1].start
    box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    return _Placed(sprite, one.top, one.left, label, tuple(int(edge) for edge in box), area)  # type: ignore[arg-type]


def _visible_window(one: _Placed, size: tuple[int, int]) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The part of the picture that a sprite covers, and its mask there (not counting what lies above it)."""
    side = one.sprite.alpha.shape[0]
    window = tuple(
        slice(*np.clip((start, start + side), 0, limit).tolist())
        for start, limit in zip((one.top, one.left), size, strict=True)
    )
    rows, columns = (
        slice(part.start - start, part.stop - start)
        for part, start in zip(window, (one.top, one.left), strict=True)
    )
    return (window[0], window[1]), one.sprite.alpha[rows, columns] > 0.5


def _paste(canvas: Picture, one: _Placed) -> None:
    """Blend a sprite into the canvas."""
    _blend(canvas, one.sprite.colours, one.sprite.alpha, one.top, one.left)


def _cast_shadow(canvas: Picture, one: _Placed, light: tuple[float, float], strength: float) -> None:
    """Darken what lies behind an object, softly, on the side away from the light."""
    side = one.sprite.alpha.shape[0]
    blur = max(1, side // 20)
    margin = 3 * blur
    mask = np.pad(one.sprite.alpha, margin)
    soft = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(blur))
    top = one.top - margin - round(0.06 * side * light[1])
    left = one.left - margin - round(0.06 * side * light[0])
    alpha: Picture = np.asarray(soft, np.float32) * np.float32(strength / 255)
    _blend(canvas, np.zeros((3, *alpha.shape), np.float32), alpha, top, left)


def _blend(canvas: Picture, colours: Picture, alpha: Picture, top: int, left: int) -> None:
    """Blend colours into the canvas where it reaches."""
    height, width = canvas.shape[1:]
    y0, x0 = max(-top, 0), max(-left, 0)
    y1, x1 = min(alpha.shape[0], height - top), min(alpha.shape[1], width - left)
    if y0 >= y1 or x0 >= x1:
        return
    part = canvas[:, top + y0 : top + y1, left + x0 : left + x1]
    part += (colours[:, y0:y1, x0:x1] - part) * alpha[y0:y1, x0:x1]


def _photograph(rng: np.random.Generator, canvas: Picture, light: tuple[float, float]) -> NDArray[np.uint8]:
    """Uneven light over the scene, now and then a blur, the sensor's noise, and 8 bits."""
    height, width = canvas.shape[1:]
    y, x = np.linspace(-0.5, 0.5, height, dtype=np.float32), np.linspace(-0.5, 0.5, width, dtype=np.float32)
    slope = x[None] * light[0] + y[:, None] * light[1]
    bright = 1 + np.float32(rng.uniform(0, 0.5)) * slope
    if rng.random() < 0.4:  # the shade of a tree or a cloud
        shade = smooth_noise(rng, height, width, cell=width / 3, octaves=2)
        bright *= np.where(
            shade > 0.5, 1.0, 1 - np.float32(rng.uniform(0.1, 0.35)) * np.clip((0.5 - shade) * 12, 0, 1)
        )
    exposure = np.float32(rng.uniform(0.85, 1.3))
    tint = rng.uniform(0.94, 1.06, 3).astype(np.float32)
    noise = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(0.5, 5))
    pixels = canvas * bright
    pixels *= (tint * exposure * 255)[:, None, None]
    pixels += noise
    image = as_image(pixels)
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    return np.asarray(image)
