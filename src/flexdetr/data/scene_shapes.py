"""The six kinds of object in drawn scenes: designs of coloured polygons, and their rendering as sprites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flexdetr.data.scene_textures import Colour, Picture, hsv

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A polygon of one colour, or a hole.

    Attributes:
        points: (P, 2) x and y, in units of the object's radius, y downwards.
        colour: (3,) in [0, 1]; None cuts a hole into what was drawn before.
    """

    points: Points
    colour: Colour | None


@dataclass(frozen=True)
class Design:
    """One object before it is turned, scaled and lit.

    ``layers`` are drawn first to last; ``bulge`` is 0 for something flat, 1 for a sphere: how much the light
    varies over it.
    """

    layers: tuple[Layer, ...]
    bulge: float = 0.0


@dataclass(frozen=True)
class Sprite:
    """A rendered object.

    ``colours`` are (3, S, S), ``alpha`` (S, S) float32 in [0, 1], 1 where the object covers the pixel.
    """

    colours: Picture
    alpha: Picture


def render(design: Design, radius: float, angle: float, light: tuple[float, float]) -> Sprite:
    """Draw a design, smoothly at any size.

    Args:
        design: what to draw.
        radius: in pixels; how far the object reaches from its centre, corners up to a quarter further.
        angle: turn, in radians.
        light: (x, y), the direction from which the light comes, of length one at most.
    """
    half = int(np.ceil(radius * 1.25)) + 1
    oversampling = 4 if half < 48 else 2
    side = 2 * half * oversampling
    colours, mask = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    paint, cut = ImageDraw.Draw(colours), ImageDraw.Draw(mask)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for layer in design.layers:
        corners = ((layer.points @ turn) * radius * oversampling + side / 2).ravel().tolist()
        cut.polygon(corners, fill=0 if layer.colour is None else 255)
        colour = (0.0, 0.0, 0.0) if layer.colour is None else layer.colour.tolist()
        paint.polygon(corners, fill=tuple(min(int(255 * c), 255) for c in colour))
    # All that is not covered is black: dividing by the share covered keeps the black out of the rim's
    # colours.
    alpha: Picture = np.asarray(mask.reduce(oversampling), np.float32) / np.float32(255)
    planes = np.asarray(colours.reduce(oversampling)).transpose(2, 0, 1)
    brightness = _light(2 * half, radius, design.bulge, light) / (255 * np.maximum(alpha, 1 / 255))
    return Sprite(np.clip(planes * brightness, 0, 1), alpha)


def _light(side: int, radius: float, bulge: float, light: tuple[float, float]) -> Picture:
    """(side, side) brightness: a slope towards the light, and a sphere's shading with a highlight."""
    steps = ((np.arange(side) + 0.5 - side / 2) / radius).astype(np.float32)
    x, y = steps[None], steps[:, None]
    brightness = 1 + 0.16 * (x * light[0] + y * light[1])
    if bulge:
        depth = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
        facing = (x * light[0] + y * light[1]) * 0.65 + depth * 0.75
        brightness = brightness * (1 - bulge) + bulge * (0.5 + 0.55 * np.clip(facing, 0, 1))
        brightness += bulge * 0.9 * np.clip(facing, 0, 1) ** 24
    result: Picture = brightness.astype(np.float32, copy=False)
    return result


def _circle(radius: float = 1.0, start: float = 0.0, stop: float = 2 * np.pi, points: int = 64) -> Points:
    angles = np.linspace(start, stop, points)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def _line(start: tuple[float, float], stop: tuple[float, float], width: float) -> Points:
    """A straight bar."""
    a, b = np.array(start), np.array(stop)
    side = np.array([a[1] - b[1], b[0] - a[0]]) / max(float(np.hypot(*(b - a))), 1e-9) * width / 2
    return np.array([a + side, b + side, b - side, a - side])


def _ball(rng: np.random.Generator) -> Design:
    """A beach ball: coloured wedges around a cap."""
    hue = rng.normal(0.6, 0.03)
    first = hsv(hue, rng.uniform(0.65, 0.95), rng.uniform(0.75, 1.0))
    second = hsv(0, 0, rng.uniform(0.85, 1.0)) if rng.random() < 0.6 else hsv(hue + 0.4, 0.8, 0.95)
    pole = rng.uniform(-0.4, 0.4, 2)
    wedges = int(rng.choice([4, 6, 6, 8]))
    layers = [Layer(_circle(), second)]
    for i in range(0, wedges, 2):
        rim = _circle(1.0, 2 * np.pi * i / wedges, 2 * np.pi * (i + 1) / wedges, 24)
        layers.append(Layer(np.concatenate([pole[None], rim]), first))
    layers.append(Layer(pole + _circle(0.17, points=24), second))
    return Design(tuple(layers), bulge=0.85)


def _crate(rng: np.random.Generator) -> Design:
    """A wooden crate: a frame, boards and a brace."""
    hue = rng.uniform(0.06, 0.11)
    value = rng.uniform(0.6, 0.9)
    board = hsv(hue, rng.uniform(0.35, 0.65), value)
    frame, gap = board * rng.uniform(0.6, 0.78), board * 0.38
    shape = rng.uniform(0.72, 1.0)
    width, height = (0.86, 0.86 * shape) if rng.random() < 0.5 else (0.86 * shape, 0.86)
    layers = [Layer(_rectangle(-width, -height, width, height), gap)]
    count = int(rng.integers(3, 6))
    for i in range(count):
        top = -height + 2 * height * i / count
        shade = board * rng.uniform(0.92, 1.08)
        layers.append(Layer(_rectangle(-width, top + 0.02, width, top + 2 * height / count - 0.02), shade))
    right, top = width - 0.09, height - 0.09  # a brace that ended in the corners would stick out of them
    layers.append(Layer(_line((-right, -top), (right, top), 0.2), frame))
    if rng.random() < 0.5:
        layers.append(Layer(_line((-right, top), (right, -top), 0.2), frame))
    edge = 0.17
    for box in (
        (-width, -height, width, -height + edge),
        (-width, height - edge, width, height),
        (-width, -height, -width + edge, height),
        (width - edge, -height, width, height),
    ):
        layers.append(Layer(_rectangle(*box), frame * 1.08))
    return Design(tuple(layers))


def _star(rng: np.random.Generator) -> Design:
    """A five-pointed star, folded, so that each arm has a light and a dark half."""
    hue = rng.normal(0.15, 0.015)
    light = hsv(hue, rng.uniform(0.55, 0.9), rng.uniform(0.85, 1.0))
    dark = light * rng.uniform(0.55, 0.75)
    inner = rng.uniform(0.4, 0.5)
    radii = np.where(np.arange(11) % 2 == 0, 1.0, inner)
    rim = _circle(1.0, 0, 2 * np.pi, 11) * radii[:, None]
    halves = [
        Layer(np.stack([np.zeros(2), rim[i], rim[i + 1]]), light if i % 2 == 0 else dark) for i in range(10)
    ]
    # The whole outline first: without it, hairlines remain between neighbouring triangles.
    return Design((Layer(rim[:-1], light), *halves))


def _ring(rng: np.random.Generator) -> Design:
    """A swimming ring with bands; what lies behind shows through the hole."""
    hue = rng.normal(0.9, 0.03)
    first = hsv(hue, rng.uniform(0.6, 0.95), rng.uniform(0.7, 1.0))
    second = hsv(0, 0, rng.uniform(0.85, 1.0))
    hole = rng.uniform(0.45, 0.6)
    bands = int(rng.choice([0, 4, 4, 6]))
    layers = [Layer(_circle(), first)]
    for i in range(bands):
        start = 2 * np.pi * i / bands
        rim = _circle(1.0, start, start + np.pi / bands * 0.9, 16)
        layers.append(Layer(np.concatenate([rim, rim[::-1] * 0.2]), second))
    middle = (1 + hole) / 2
    shine = hsv(hue, 0.25, 1.0)
    layers.append(Layer(np.concatenate([_circle(middle + 0.07), _circle(middle + 0.01)[::-1]]), shine))
    layers.append(Layer(_circle(hole), None))
    return Design(tuple(layers))


def _cone(rng: np.random.Generator) -> Design:
    """A traffic cone on its base, with reflecting bands."""
    hue = rng.normal(0.04, 0.012)
    body = hsv(hue, rng.uniform(0.75, 0.95), rng.uniform(0.8, 1.0))
    band = hsv(0, 0, rng.uniform(0.85, 1.0))
    slope = rng.uniform(0.45, 0.6)

    def level(y: float) -> float:
        """Half the cone's width at this height."""
        return 0.08 + (slope - 0.08) * (y + 1) / 1.7

    def slice_(top: float, bottom: float) -> Points:
        a, b = level(top), level(bottom)
        return np.array([[-a, top], [a, top], [b, bottom], [-b, bottom]])

    layers = [
        Layer(_rectangle(-slope - 0.17, 0.66, slope + 0.17, 0.92), body * 0.7),
        Layer(slice_(-1, 0.7), body),
    ]
    for top in (-0.5, 0.12)[: int(rng.integers(1, 3))]:
        layers.append(Layer(slice_(top, top + 0.3), band))
    shadow = np.array([[0.02, -1], [level(-1), -1], [level(0.7), 0.7], [level(0.7) * 0.45, 0.7]])
    layers.append(Layer(shadow, body * 0.72))
    return Design(tuple(layers))


def _leaf(rng: np.random.Generator) -> Design:
    """A pointed leaf with a stalk, veins and two halves."""
    hue = rng.uniform(0.24, 0.4)
    colour = hsv(hue, rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.9))
    vein = np.clip(colour * 1.35 + 0.1, 0, 1)
    breadth = rng.uniform(0.36, 0.52)
    x = np.linspace(-0.72, 1.0, 24)
    # Broad near the stalk, pointed at the tip.
    share = (x + 0.72) / 1.72
    bow = breadth * np.sin(np.pi * share**0.75)
    upper, lower = np.stack([x, -bow], axis=1), np.stack([x, bow], axis=1)
    axis = np.stack([x, np.zeros_like(x)], axis=1)
    layers = [
        Layer(_line((-1.0, 0.0), (-0.6, 0.0), 0.09), vein * 0.8),
        Layer(np.concatenate([upper, axis[::-1]]), colour),
        Layer(np.concatenate([lower, axis[::-1]]), colour * 0.78),
    ]
    for start in (-0.42, -0.12, 0.18, 0.46):
        reach = 0.62 * breadth * np.sin(np.pi * ((start + 0.72 + 0.2) / 1.72) ** 0.75)
        for side in (-1, 1):
            layers.append(Layer(_line((start, 0), (start + 0.26, side * reach), 0.035), vein))
    layers.append(Layer(_line((-0.7, 0), (0.95, 0), 0.055), vein))
    return Design(tuple(layers))


SHAPES: dict[str, Callable[[np.random.Generator], Design]] = {
    "ball": _ball,
    "crate": _crate,
    "star": _star,
    "ring": _ring,
    "cone": _cone,
    "leaf": _leaf,
}
