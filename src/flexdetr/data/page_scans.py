"""What becomes of a written page before it is a picture: paper, stamps, a copier, a scanner, a telephone's camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from flexdetr.data.scene_textures import as_image, draw_background, smooth_noise


def stamp(rng: np.random.Generator, image: Image.Image) -> None:
    """A round or square mark at any angle over the page; it tells nothing of the page's own direction."""
    side = round(min(image.size) * rng.uniform(0.12, 0.3))
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
    for inset in (1, side // 8) if rng.random() < 0.6 else (1,):
        shape((inset, inset, side - 1 - inset, side - 1 - inset), outline=200, width=max(1, side // 30))
    for place in rng.uniform(side * 0.25, side * 0.75, (6, 2)):
        x, y = (float(v) for v in place)
        draw.line((x, y, x + side * 0.12, y + side * float(rng.uniform(-0.05, 0.05))), fill=200, width=2)
    mask = mask.rotate(float(rng.uniform(0, 360)), Image.Resampling.BILINEAR)
    colour = tuple(int(v) for v in (rng.integers(120, 220), rng.integers(0, 60), rng.integers(0, 120)))
    left, top = (int(rng.integers(0, max(1, edge - side))) for edge in image.size)
    image.paste(Image.new("RGB", mask.size, colour), (left, top), mask)


def photograph(rng: np.random.Generator, page: Image.Image) -> Image.Image:
    """A page as a scanner or a camera gives it: one of several looks, at random.

    The page is RGB, the reader's top at its top.

    Returns:
        RGB of about the same size; its top is within some ten degrees of the page's.
    """
    if rng.random() < 0.35:
        page = _aged(rng, page)
    kind = rng.random()
    if kind < 0.3:  # straight from a program
        page = _skewed(rng, page, 0.5)
    elif kind < 0.65:
        page = _scanned(rng, _skewed(rng, page, 5))
    else:
        page = _lit(rng, _seen(rng, page))
    if rng.random() < 0.3:
        page = page.convert("L").convert("RGB")
    if rng.random() < 0.35:
        page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3))))
    return page


def _aged(rng: np.random.Generator, page: Image.Image) -> Image.Image:
    """Yellowed, spotted paper; the writing of the other side may shine through."""
    pixels = np.asarray(page, np.float32)
    height, width = pixels.shape[:2]
    paper = np.array([rng.uniform(0.75, 1.0), rng.uniform(0.68, 0.95), rng.uniform(0.45, 0.9)], np.float32)
    spots = 1 - np.float32(rng.uniform(0, 0.3)) * smooth_noise(rng, height, width, cell=width / 4, octaves=3)
    if rng.random() < 0.4:  # mirrored, as it is seen from behind
        behind = page.transpose(Image.Transpose.FLIP_LEFT_RIGHT).filter(ImageFilter.GaussianBlur(2))
        spots *= 1 - np.float32(rng.uniform(0.05, 0.2)) * (
            1 - np.asarray(behind.convert("L"), np.float32) / 255
        )
    return _image(pixels * spots[..., None] * paper)


def _skewed(rng: np.random.Generator, page: Image.Image, most: float) -> Image.Image:
    """Turned by a few degrees at most; what comes in at the corners has the paper's colour, or is black."""
    if rng.random() < 0.3:
        return page
    ground = (0, 0, 0) if rng.random() < 0.15 else page.getpixel((1, 1))
    return page.rotate(float(rng.normal(0, most / 2)), Image.Resampling.BILINEAR, fillcolor=ground)


def _scanned(rng: np.random.Generator, page: Image.Image) -> Image.Image:
    """Black and white or grey, with specks, a copier's lines and dark edges."""
    grey = np.asarray(page.convert("L"), np.float32)
    height, width = grey.shape
    grey = grey + rng.normal(0, rng.uniform(1, 14), grey.shape).astype(np.float32)
    if rng.random() < 0.35:  # a dark edge, where the lid was open
        reach = int(rng.integers(2, max(3, width // 12)))
        edge = int(rng.integers(4))
        part: tuple[slice, slice] = (
            (slice(None), slice(0, reach)),
            (slice(None), slice(width - reach, None)),
            (slice(0, reach), slice(None)),
            (slice(height - reach, None), slice(None)),
        )[edge]
        grey[part] *= np.float32(rng.uniform(0.05, 0.6))
    if rng.random() < 0.35:
        grey = np.where(grey > rng.uniform(110, 190), np.float32(255), np.float32(0))
    if rng.random() < 0.5:
        specks = rng.random(grey.shape) < rng.uniform(0, 0.003)
        grey = np.where(specks, np.float32(rng.choice((0, 255))), grey)
    return _image(np.repeat(grey[..., None], 3, axis=2))


def _seen(rng: np.random.Generator, page: Image.Image) -> Image.Image:
    """The page on a table, seen aslant: the ground around it, its corners moved."""
    width, height = page.size
    margin = rng.uniform(-0.03, 0.12, 4)
    corners = np.array([[margin[0], margin[1]], [1 - margin[2], margin[1]], [1 - margin[2], 1 - margin[3]],
                        [margin[0], 1 - margin[3]]])  # fmt: skip
    corners += rng.normal(0, 0.025, corners.shape)
    angle = np.deg2rad(rng.normal(0, 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = ((corners - 0.5) * (width, height) @ turn.T) + np.array([width, height]) / 2
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    data = _perspective(target, source)
    ground = as_image(draw_background(rng, height, width) * np.float32(rng.uniform(60, 255)))
    mask = Image.new("L", page.size, 255).transform(page.size, Image.Transform.PERSPECTIVE, data)
    seen = page.transform(page.size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    ground.paste(seen, (0, 0), mask)
    return ground


def _perspective(target: NDArray[np.float64], source: NDArray[np.float64]) -> list[float]:
    """The eight numbers with which Pillow finds the source's place of a point: four pairs of points decide them."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return [float(v) for v in np.linalg.solve(np.array(rows), source.reshape(-1))]


def _lit(rng: np.random.Generator, page: Image.Image) -> Image.Image:
    """Light from one side, a shade, a tint, the sensor's noise."""
    pixels = np.asarray(page, np.float32)
    height, width = pixels.shape[:2]
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-0.5, 0.5, height, dtype=np.float32), np.linspace(-0.5, 0.5, width, dtype=np.float32)
    slope = x[None] * np.float32(np.cos(direction)) + y[:, None] * np.float32(np.sin(direction))
    light = np.float32(rng.uniform(0.55, 1.05)) * (1 + np.float32(rng.uniform(0, 0.7)) * slope)
    if rng.random() < 0.4:
        shade = smooth_noise(rng, height, width, cell=width / 2, octaves=1)
        light *= np.where(
            shade > 0.5, 1.0, 1 - np.float32(rng.uniform(0.1, 0.4)) * np.clip((0.5 - shade) * 9, 0, 1)
        )
    tint = rng.uniform(0.85, 1.05, 3).astype(np.float32)
    noise = rng.normal(0, rng.uniform(1, 9), (height, width, 1)).astype(np.float32)
    return _image(pixels * light[..., None] * tint + noise)


def _image(pixels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
