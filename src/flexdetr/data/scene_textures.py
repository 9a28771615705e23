"""Backgrounds of drawn scenes: textures of (3, H, W) float32 colours in [0, 1] (planes: numpy is faster so)."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Picture = NDArray[np.float32]
Colour = NDArray[np.float32]
Texture = Callable[[np.random.Generator, int, int], Picture]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour (3,) in [0, 1] from hue, saturation and value in [0, 1]; the hue wraps around."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0)), np.float32)


def draw_background(rng: np.random.Generator, height: int, width: int) -> Picture:
    """One of the textures, at random."""
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
    ground = texture(rng, height, width)
    return np.clip(ground, 0.0, 1.0, out=ground)


def as_image(pixels: Picture) -> Image.Image:
    """A picture from planes (3, H, W) of values in [0, 255]; what lies outside is clipped."""
    planes = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1, stretch: float = 1.0
) -> Picture:
    """Noise in about [0, 1] without sharp edges.

    ``cell`` is the size in pixels of the coarsest blobs; each octave adds blobs of half the size and half the
    strength; ``stretch`` is how many times longer blobs are across than down.

    Returns:
        (height, width) float32.
    """
    total = np.zeros((height, width), np.float32)
    strength, sum_of_strengths = 1.0, 0.0
    for _ in range(octaves):
        rows, columns = int(height / cell) + 3, int(width / (cell * stretch)) + 3
        grid = Image.fromarray(rng.random((rows, columns), np.float32))
        # The box leaves out the border, where the interpolation has no neighbours to look at.
        inner = (1.0, 1.0, 1.0 + width / (cell * stretch), 1.0 + height / cell)
        total += strength * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=inner))
        sum_of_strengths += strength
        strength, cell = strength / 2, max(cell / 2, 1.0)
    result: Picture = total / np.float32(sum_of_strengths)
    return result


def _mix(share: Picture, first: Colour, second: Colour) -> Picture:
    """From one colour to the other, (H, W) shares in [0, 1] to (3, H, W)."""
    share = np.clip(share, 0.0, 1.0).astype(np.float32, copy=False)
    result: Picture = first[:, None, None] + share * (second - first)[:, None, None]
    return result


def _along(rng: np.random.Generator, height: int, width: int) -> Picture:
    """(H, W) distance in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    result: Picture = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    return result


def _calm_pair(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two colours near each other, muted so that objects stand out against them more often than not."""
    hue, value = rng.random(), rng.uniform(0.25, 0.85)
    first = hsv(hue, rng.uniform(0.05, 0.45), value)
    second = hsv(
        hue + rng.normal(0, 0.07),
        rng.uniform(0.05, 0.45),
        value + rng.choice([-1, 1]) * rng.uniform(0.08, 0.2),
    )
    return first, second


def _clouds(rng: np.random.Generator, height: int, width: int) -> Picture:
    noise = smooth_noise(rng, height, width, cell=rng.uniform(0.1, 0.35) * width, octaves=5)
    return _mix((noise - 0.25) * 2, *_calm_pair(rng))


def _gradient(rng: np.random.Generator, height: int, width: int) -> Picture:
    share = _along(rng, height, width)
    share = (share - share.min()) / max(float(np.ptp(share)), 1.0)
    first, second = hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.95)), _calm_pair(rng)[0]
    grain = rng.standard_normal((height, width), np.float32) * np.float32(0.02)
    return _mix(share, first, second) + grain


def _stripes(rng: np.random.Generator, height: int, width: int) -> Picture:
    bend = smooth_noise(rng, height, width, cell=width / 2) * np.float32(rng.uniform(0, 40))
    phase = (_along(rng, height, width) + bend) / np.float32(rng.uniform(0.04, 0.2) * width)
    wave = np.sin(2 * np.pi * phase) * np.float32(rng.choice([1.0, 6.0]))
    return _mix(np.clip(wave * 0.5 + 0.5, 0, 1), *_calm_pair(rng))


def _planks(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Wooden boards with grain, dark gaps between them, and each board a little different; across or upright."""
    upright = rng.random() < 0.4
    if upright:
        height, width = width, height
    plank = rng.uniform(0.12, 0.28) * height
    grain = smooth_noise(rng, height, width, cell=0.03 * height, octaves=3, stretch=14)
    rings = 0.5 + 0.5 * np.sin(grain * np.float32(rng.uniform(25, 45)))
    row = (np.arange(height) + rng.uniform(0, plank)) / plank
    board = row.astype(int)
    tint = rng.uniform(-0.09, 0.09, board.max() + 1)[board].astype(np.float32)
    gap = np.abs((row % 1.0) - 0.5) > 0.5 - 1.2 / plank
    hue = rng.uniform(0.05, 0.11)
    dark = hsv(hue, rng.uniform(0.4, 0.65), 0.38)
    light = hsv(hue + 0.01, rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.8))
    wood = _mix(0.35 * rings + 0.65 * grain, dark, light) + tint[:, None]
    wood[:, gap] *= 0.45
    return wood.transpose(0, 2, 1) if upright else wood


def _tiles(rng: np.random.Generator, height: int, width: int) -> Picture:
    """A floor of square tiles with joints, in two colours like a chess board or each in its own shade."""
    side = rng.uniform(0.1, 0.25) * width
    y, x = (np.arange(height) + rng.uniform(0, side)) / side, (np.arange(width) + rng.uniform(0, side)) / side
    row, column = y.astype(int)[:, None], x.astype(int)[None]
    shade = rng.uniform(0, 0.6, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    if rng.random() < 0.5:
        shade = ((row + column) % 2) * np.float32(0.7) + shade * 0.3
    floor = _mix(shade + 0.25 * smooth_noise(rng, height, width, side / 2, 3), *_calm_pair(rng))
    thickness = 1.0 / side
    joint = (y % 1.0 < thickness)[:, None] | (x % 1.0 < thickness)[None]
    floor[:, joint] *= 0.6
    return floor


def _fabric(rng: np.random.Generator, height: int, width: int) -> Picture:
    period = rng.uniform(3.5, 8)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    weave = 0.5 + 0.5 * np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)
    folds = smooth_noise(rng, height, width, cell=width / 3, octaves=2)
    return _mix(0.5 * weave + 0.5 * folds, *_calm_pair(rng)) * (0.75 + 0.4 * folds)


def _pebbles(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Rounded stones: the cells of the nearest of many points, darker towards their borders."""
    scale = 3  # at a third of the resolution: distances are smooth, and nine times as fast
    rows, columns = height // scale + 1, width // scale + 1
    count = int(rng.integers(60, 140))
    centres = (rng.random((count, 2)) * (rows, columns)).astype(np.float32)
    y, x = np.mgrid[:rows, :columns].astype(np.float32).reshape(2, -1, 1)
    squares = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    places = np.arange(len(squares))
    nearest = np.argmin(squares, axis=1)
    closest = squares[places, nearest]
    squares[places, nearest] = np.inf
    edge = (np.sqrt(squares.min(axis=1)) - np.sqrt(closest)) * scale
    shade = rng.uniform(0.15, 1.0, count).astype(np.float32)[nearest] * np.clip(0.35 + edge / 10, 0, 1)
    image = Image.fromarray(shade.reshape(rows, columns).astype(np.float32))
    smooth = np.asarray(image.resize((columns * scale, rows * scale), Image.Resampling.BILINEAR))[
        :height, :width
    ]
    return _mix(smooth, hsv(rng.random(), 0.2, 0.25), hsv(rng.uniform(0, 0.6), rng.uniform(0.05, 0.3), 0.8))


def _meadow(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Grass: blades of many greens over soft ground."""
    hue = rng.uniform(0.2, 0.36)
    ground = _mix(smooth_noise(rng, height, width, width / 5, 4), hsv(hue, 0.5, 0.25), hsv(hue, 0.5, 0.55))
    canvas = as_image(ground * 255)
    pen = ImageDraw.Draw(canvas)
    count = 500
    x, y = rng.uniform(0, width, count), rng.uniform(0, height * 1.05, count)
    lean, length = rng.normal(0, 0.02 * width, count), rng.uniform(0.02, 0.08, count) * height
    greens = [
        tuple(int(255 * c) for c in hsv(hue + rng.normal(0, 0.02), 0.5, v)) for v in rng.uniform(0.3, 0.65, 8)
    ]
    for i in np.argsort(y):
        pen.line(
            (x[i], y[i], x[i] + lean[i], y[i] - length[i]), fill=greens[i % 8], width=1 + int(width > 300)
        )
    return np.asarray(canvas).transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)


TEXTURES: tuple[Texture, ...] = (
    _clouds,
    _gradient,
    _stripes,
    _planks,
    _planks,
    _tiles,
    _fabric,
    _pebbles,
    _meadow,
)
