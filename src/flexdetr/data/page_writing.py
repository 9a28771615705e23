"""A sheet that a page is written on: lines, paragraphs, tables, fields and small drawings in boxes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from flexdetr.data.page_fonts import Face

Align = Literal["left", "right", "centre", "justified"]
Ink = tuple[int, int, int]
_T = TypeVar("_T")

_LEADING: Final = 1.35  # from line to line, as a share of the letters' size


@dataclass(frozen=True)
class Box:
    """A part of a sheet, in pixels from its top left corner."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels across."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels down; negative if nothing is left."""
        return self.bottom - self.top

    def below(self, top: float) -> Box:
        """What is left of it below a height."""
        return replace(self, top=top)

    def above(self, bottom: float) -> Box:
        """What is left of it above a height."""
        return replace(self, bottom=bottom)

    def columns(self, count: int, gap: float, first: float | None = None) -> list[Box]:
        """Parts side by side, from the left; ``first`` is the first one's share of the width, else all are equal."""
        shares = [1 / count] * count
        if first is not None:
            shares = [first] + [(1 - first) / (count - 1)] * (count - 1)
        room = self.width - gap * (count - 1)
        lefts = self.left + np.cumsum([0.0, *shares[:-1]]) * room + gap * np.arange(count)
        return [
            Box(float(left), self.top, float(left + share * room), self.bottom)
            for left, share in zip(lefts, shares, strict=True)
        ]

    def rows(self, count: int, gap: float) -> list[Box]:
        """Equal parts one below the other."""
        step = (self.height + gap) / count
        return [
            Box(self.left, self.top + step * place, self.right, self.top + step * (place + 1) - gap)
            for place in range(count)
        ]


@dataclass(eq=False)
class Sheet:
    """A page while it is written.

    Attributes:
        image: RGB.
        rng: decides everything.
        face: of the running text.
        title_face: of headings.
        ink: colour of the text.
        accent: colour of headings and bars.
        vertical: scripts with columns are written in columns.
    """

    image: Image.Image
    rng: np.random.Generator
    face: Face
    title_face: Face
    ink: Ink
    accent: Ink
    vertical: bool = False
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)
        script = self.face.script
        self._words = script.words(script.texts[int(self.rng.integers(len(script.texts)))])

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.image.width

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.image.height

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return bool(self.rng.random() < share)

    def any_of(self, *values: _T) -> _T:
        """One of some values."""
        return values[int(self.rng.integers(len(values)))]

    def body(self) -> Box:
        """The sheet without its margins, each of its own width; now and then most of the page stays empty."""
        side = min(self.width, self.height)
        left, top, right, bottom = self.rng.uniform(0.01, 0.13, 4) * side
        return Box(left, top, self.width - right, self.height - bottom)

    def text_size(self) -> int:
        """Pixels of running text: small print to a few large lines."""
        lines = float(np.exp(self.rng.uniform(np.log(22), np.log(80))))
        return max(6, round(self.height / lines / _LEADING))

    def lines(
        self, box: Box, size: float, *, most: int | None = None, align: Align = "left", uneven: float = 0.0
    ) -> float:
        """Running text from the box's top; returns the height at which it ends."""
        return self._write(self.face, self.ink, box, round(size), most, align, uneven, short=most is None)

    def heading(self, box: Box, size: float, *, align: Align | None = None) -> float:
        """One or two large lines; returns the height at which they end."""
        most = int(self.rng.integers(1, 3))
        return self._write(
            self.title_face,
            self.accent,
            box,
            round(size),
            most,
            align or ("left" if self.chance(0.5) else "centre"),
            0.0,
            short=True,
        )

    def paragraphs(self, box: Box, size: float, *, align: Align | None = None, indent: bool = False) -> float:
        """Paragraphs down to the box's foot; returns the height at which they end."""
        size = round(size)
        chosen: Align = align or ("left" if self.chance(0.5) else "justified")
        y = box.top
        while y + size * _LEADING <= box.bottom:
            inset = size * 1.5 if indent else 0.0
            most = int(self.rng.integers(2, 14))
            first = replace(box, top=y, left=box.left + (0 if self._rtl else inset))
            first = replace(first, right=box.right - (inset if self._rtl else 0))
            y = self._write(self.face, self.ink, first, size, 1, chosen, 0.0, short=False)
            y = self._write(self.face, self.ink, box.below(y), size, most, chosen, 0.0, short=True)
            if not indent:
                y += size * _LEADING * 0.6
        return y

    def points(self, box: Box, size: float) -> float:
        """A list with a mark before each point; returns the height at which it ends."""
        size = round(size)
        y = box.top
        while y + size * _LEADING <= box.bottom:
            x = box.right - size * 0.7 if self._rtl else box.left
            self.draw.ellipse((x, y + size * 0.4, x + size * 0.35, y + size * 0.75), fill=self.accent)
            text = replace(
                box,
                top=y,
                left=box.left + (0 if self._rtl else size),
                right=box.right - (size if self._rtl else 0),
            )
            y = self.lines(text, size, most=int(self.rng.integers(1, 4))) + size * 0.5
        return y

    def words(self, x: float, y: float, size: float, count: int) -> None:
        """A few words that begin (or, from right to left, end) at ``x``."""
        width = self.width * 0.4
        self._write(
            self.face,
            self.ink,
            Box(x, y, x + width, y + size * 1.5),
            round(size),
            1,
            "left",
            0.0,
            True,
            count,
        )

    def write_down(self, box: Box, size: float, *, most: int | None = None) -> None:
        """Characters in columns from top to bottom, the first column at the right."""
        size = round(size)
        x = box.right - size
        while x >= box.left and (most is None or most > 0):
            y = box.top + (size if self.chance(0.15) else 0)
            end = box.bottom - (self.rng.uniform(0.1, 0.8) * box.height if self.chance(0.15) else 0)
            for word in self._some(int((box.height / size) + 1)):
                if y + size > end:
                    break
                self._put(self.face, x, y, word, size, self.ink)
                y += size * 1.05
            x -= size * 1.6
            most = None if most is None else most - 1

    def grid(self, box: Box, size: float, rows: int) -> float:
        """A table with a head; numbers stand at the right of their cells. Returns the height at which it ends."""
        size = max(5, round(size))
        step = size * self.rng.uniform(1.3, 2.0)
        shares = self.rng.uniform(0.5, 1.5, int(self.rng.integers(2, 9)))
        edges = box.left + np.concatenate([[0.0], np.cumsum(shares) / shares.sum()]) * box.width
        numbers = self.rng.random(len(shares)) < 0.5
        shaded, ruled, framed = self.chance(0.4), self.chance(0.6), self.chance(0.5)
        y = box.top
        for row in range(rows):
            if y + step > box.bottom:
                break
            if row == 0 and shaded:
                self.draw.rectangle((box.left, y, box.right, y + step), fill=_mix(self.accent, 0.75))
            for left, right, number in zip(edges[:-1], edges[1:], numbers, strict=True):
                cell = Box(float(left) + 2, y + (step - size) / 2.5, float(right) - 3, y + step + size)
                if number and row:
                    self._number(cell, size)
                else:
                    self._write(
                        self.face, self.ink, cell, size, 1, "left", 0.0, True, int(self.rng.integers(1, 4))
                    )
            y += step
            if ruled or row == 0:
                self.rule(box.left, y, box.right)
        if framed:
            for edge in edges:
                self.draw.line((float(edge), box.top, float(edge), y), fill=self.ink)
            self.rule(box.left, box.top, box.right)
        return y

    def sums(self, box: Box, size: float) -> float:
        """Rows of a name and a number at the other end; returns the height at which they end."""
        size = round(size)
        y = box.top
        while y + size * _LEADING < box.bottom:
            self.words(box.left, y, size, int(self.rng.integers(1, 3)))
            self._number(box.below(y), size)
            y += size * _LEADING
        return y

    def dotted(self, box: Box, size: float) -> None:
        """A heading, dots, and the number of its page."""
        size = round(size)
        middle = box.left + box.width * self.rng.uniform(0.3, 0.7)
        self._write(
            self.face,
            self.ink,
            replace(box, right=middle, bottom=box.top + size * 2),
            size,
            1,
            "left",
            0.0,
            False,
        )
        for x in np.arange(middle + size, box.right - size * 2, size * 0.6):
            self.draw.point((float(x), box.top + size * 0.9), fill=self.ink)
        self._number(box, size, longest=3)

    def field(self, box: Box, size: float) -> None:
        """A label with room to fill in below it."""
        size = round(size)
        small = max(5, round(size * 0.75))
        framed = self.chance(0.5)
        if framed:
            self.draw.rectangle((box.left, box.top, box.right, box.bottom), outline=self.ink)
        else:
            self.rule(box.left, box.bottom, box.right)
        inner = Box(box.left + 2, box.top + 1, box.right - 2, box.bottom + size)
        self._write(self.face, self.ink, inner, small, 1, "left", 0.0, True, 3)
        if self.chance(0.6):
            text = inner.below(box.top + small * 1.3)
            if self.chance(0.5):
                self._number(text, size)
            else:
                self._write(self.title_face, self.accent, text, size, 1, "left", 0.1, True, 3)
        elif self.chance(0.4):
            side = size * 0.9
            for place in range(2):
                x = box.left + 4 + place * side * 5
                self.draw.rectangle((x, box.bottom - side - 2, x + side, box.bottom - 2), outline=self.ink)
                self.words(x + side * 1.3, box.bottom - side - 3, small, 1)

    def bar(self, box: Box, size: float) -> None:
        """A dark bar with light words on it."""
        self.draw.rectangle((box.left, box.top, box.right, box.bottom), fill=self.accent)
        text = Box(box.left + size * 0.5, box.top + (box.height - size) / 3, box.right, box.bottom + size)
        light = (250, 250, 250) if sum(self.accent) < 450 else (10, 10, 10)
        self._write(self.title_face, light, text, round(size), 1, "left", 0.0, True, 3)

    def rule(self, left: float, y: float, right: float) -> None:
        """A thin line across."""
        self.draw.line((left, y, right, y), fill=self.ink)

    def number_below(self) -> None:
        """The page's number in the margin at the foot."""
        size = max(6, round(self.height / 70))
        y = self.height - size * 1.6
        middle = self.width / 2
        self._number(Box(middle - size * 2, y, middle + size * 2, y + size), size, longest=3)

    def bars_of_code(self, box: Box, size: float) -> None:
        """The bars that a till's reader reads, with a number below."""
        if box.height < size * 2.5:
            return
        x, end = box.left + box.width * 0.2, box.right - box.width * 0.2
        while x < end:
            wide = float(self.rng.uniform(1, 4))
            self.draw.rectangle((x, box.top, x + wide, box.top + size * 1.5), fill=self.ink)
            x += wide + float(self.rng.uniform(1, 4))
        self._number(Box(box.left, box.top + size * 1.6, end, box.bottom), round(size))

    def shapes(self, box: Box) -> None:
        """Areas and lines without an up or a down."""
        for _ in range(int(self.rng.integers(2, 7))):
            centre = self.rng.uniform((box.left, box.top), (box.right, box.bottom))
            angles = np.sort(self.rng.uniform(0, 2 * np.pi, int(self.rng.integers(3, 14))))
            reach = self.rng.uniform(0.1, 0.5, len(angles)) * min(box.width, box.height)
            corners = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
            corners = np.clip(corners, (box.left, box.top), (box.right, box.bottom))
            points = [(float(x), float(y)) for x, y in corners]
            fill = (
                _mix(tuple(int(v) for v in self.rng.integers(0, 256, 3)), 0.5) if self.chance(0.6) else None
            )
            self.draw.polygon(points, fill=fill, outline=self.ink)

    def chart(self, box: Box) -> None:
        """Bars, a pie or curves, with names below."""
        size = max(5, round(min(box.width, box.height) / 16))
        inner = Box(box.left + size, box.top, box.right, box.bottom - size * 2)
        kind = self.any_of("bars", "pie", "curve")
        colours = [tuple(int(v) for v in self.rng.integers(40, 230, 3)) for _ in range(6)]
        if kind == "pie":
            side = min(inner.width, inner.height)
            ends = np.concatenate([[0.0], np.sort(self.rng.uniform(0, 360, 5)), [360.0]])
            for start, end, colour in zip(ends[:-1], ends[1:], colours, strict=True):
                place = (inner.left, inner.top, inner.left + side, inner.top + side)
                self.draw.pieslice(place, float(start), float(end), fill=colour)
        elif kind == "bars":
            for cell, colour in zip(inner.columns(6, gap=size * 0.7), colours, strict=True):
                top = cell.bottom - cell.height * self.rng.uniform(0.1, 1)
                self.draw.rectangle((cell.left, top, max(cell.right, cell.left), cell.bottom), fill=colour)
        else:
            xs = np.linspace(inner.left, inner.right, 20)
            for colour in colours[:3]:
                ys = inner.top + inner.height * np.clip(0.5 + np.cumsum(self.rng.normal(0, 0.1, 20)), 0, 1)
                self.draw.line(
                    [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], fill=colour, width=2
                )
        self.draw.line(
            (inner.left, inner.top, inner.left, inner.bottom, inner.right, inner.bottom), fill=self.ink
        )
        for cell in inner.columns(4, gap=size):
            self.words(cell.left, inner.bottom + size * 0.4, size, 1)

    def fold(self) -> None:
        """The shadow between two pages."""
        middle = self.width / 2
        for offset in range(-12, 13):
            shade = 255 - 9 * (12 - abs(offset))
            x = middle + offset
            self.draw.line((x, 0, x, self.height), fill=(shade, shade, shade))

    @property
    def _rtl(self) -> bool:
        return self.face.script.right_to_left

    def _some(self, count: int, most: int | None = None) -> Iterator[str]:
        """Words of the text from some place on; it begins again at its end."""
        start = int(self.rng.integers(len(self._words)))
        for place in range(start, start + (most or count)):
            yield self._words[place % len(self._words)]

    def _put(self, face: Face, x: float, y: float, word: str, size: int, ink: Ink) -> None:
        """One word, its left end and the line's top at a place."""
        mask, left, top = face.drawn(word, max(size, 5))
        self.draw.bitmap((round(x) + left, round(y) + top), mask, fill=ink)

    def _number(self, box: Box, size: int, longest: int = 7) -> None:
        """A number that ends at the box's right edge."""
        digits = "".join(str(d) for d in self.rng.integers(0, 10, int(self.rng.integers(1, longest + 1))))
        text = self.any_of(digits, f"{digits}.{int(self.rng.integers(10, 100))}", f"{digits}%")
        if longest <= 3 or self.face.width(text, size) > box.width:
            text = digits[:3]
        x = box.right
        for digit in reversed(text):  # one by one: few drawings serve all numbers
            x -= self.face.width(digit, size)
            self._put(self.face, x, box.top, digit, size, self.ink)

    def _write(
        self,
        face: Face,
        ink: Ink,
        box: Box,
        size: int,
        most: int | None,
        align: Align,
        uneven: float,
        short: bool,
        words: int | None = None,
    ) -> float:
        """Lines of words; returns the height below the last one.

        Args:
            face: the font.
            ink: the colour.
            box: nothing is written outside it.
            size: of the letters, pixels.
            most: lines at most.
            align: from right to left, "left" is the right.
            uneven: how much words leave the line, as a share of the size.
            short: the last line ends anywhere.
            words: at most, all in all.
        """
        size = max(size, 5)
        space = face.width(" ", size) if face.script.spaced else 0.0
        room = int(max(box.height, 0) / (size * _LEADING))
        count = room if most is None else min(most, room)
        y = box.top
        supply = self._some(words if words is not None else 100_000)
        held: str | None = None
        for number in range(count):
            limit = box.width * (self.rng.uniform(0.2, 0.95) if short and number == count - 1 else 1.0)
            line: list[tuple[str, float]] = []
            total = 0.0
            while (word := held if held is not None else next(supply, None)) is not None:
                held = None
                width = face.width(word, size)
                if total + width > limit and (line or width > box.width):
                    held = word if width <= box.width else None
                    break
                line.append((word, width))
                total += width + space
            if not line:
                break
            gap = space
            left_over = box.width - (total - space)
            full = held is not None and not (short and number == count - 1)
            if align == "justified" and full and len(line) > 1:
                gap += left_over / (len(line) - 1)
                left_over = 0.0
            offset = left_over / 2 if align == "centre" else left_over if align == "right" else 0.0
            x = box.right - offset if face.script.right_to_left else box.left + offset
            for word, width in line:
                x -= width if face.script.right_to_left else 0
                rise = self.rng.normal(0, uneven * size) if uneven else 0.0
                self._put(face, x, y + rise, word, size, ink)
                x += -gap if face.script.right_to_left else width + gap
            y += size * _LEADING
        return y


def _mix(colour: tuple[int, ...], white: float) -> Ink:
    """A colour with a share of white."""
    red, green, blue = (round(value + (255 - value) * white) for value in colour)
    return red, green, blue
