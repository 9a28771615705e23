"""How drawn pages are laid out: articles, books, tables, forms ... to train on, and other ones that are held out.

A layout draws on a sheet whose top is the reader's top. Nothing here tells which way is up but writing, its order, and
what follows from them: titles stand above texts, lines begin on one side and end anywhere, a last line is short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import ImageFilter

from flexdetr.data.page_writing import Box, Sheet
from flexdetr.data.scene_textures import as_image, draw_background

Layout = Callable[[Sheet], None]


def article(sheet: Sheet) -> None:
    """A title over one to three columns, with a figure or a table here and there."""
    box = sheet.body()
    size = sheet.text_size()
    top = sheet.heading(box, size * sheet.rng.uniform(1.5, 2.4))
    if sheet.chance(0.5):
        top = sheet.lines(box.below(top), size, most=1, align="centre")
    box = box.below(top + size)
    for column in box.columns(int(sheet.rng.integers(1, 4)), gap=size * 2):
        _fill(sheet, column, size)
    if sheet.chance(0.5):
        sheet.number_below()


def book(sheet: Sheet) -> None:
    """A page of running text under a line with the book's title."""
    box = sheet.body()
    size = sheet.text_size()
    top = sheet.lines(box, size, most=1, align="centre" if sheet.chance(0.5) else "left")
    box = box.below(top + size * 0.8)
    if sheet.chance(0.3):
        box = box.below(sheet.heading(box.below(box.top + size * 2), size * 1.3, align="centre") + size)
    foot = box.bottom - box.height * (sheet.rng.uniform(0.1, 0.3) if sheet.chance(0.3) else 0)
    sheet.paragraphs(box.above(foot), size, align="justified", indent=True)
    if foot < box.bottom:
        sheet.rule(box.left, foot + size * 0.5, box.left + box.width * 0.3)
        sheet.paragraphs(box.below(foot + size), max(5, round(size * 0.8)))
    if sheet.chance(0.4):
        sheet.number_below()


def table(sheet: Sheet) -> None:
    """A ruled table with a head, under a title."""
    box = sheet.body()
    size = sheet.text_size()
    top = sheet.heading(box, size * sheet.rng.uniform(1.2, 1.8)) + size
    if sheet.chance(0.4):
        top = sheet.lines(box.below(top), size, most=3) + size
    bottom = sheet.grid(box.below(top), size, rows=int(sheet.rng.integers(5, 50)))
    sheet.paragraphs(box.below(bottom + size), size)


def form(sheet: Sheet) -> None:
    """Labels with boxes or lines to fill in, some of them filled."""
    box = sheet.body()
    size = sheet.text_size()
    y = sheet.heading(box, size * 1.6) + size
    while y + size * 4 < box.bottom:
        if sheet.chance(0.2):
            sheet.bar(Box(box.left, y, box.right, y + size * 1.6), size)
            y += size * 2.4
            continue
        for cell in box.below(y).columns(int(sheet.rng.integers(1, 4)), gap=size):
            sheet.field(Box(cell.left, y, cell.right, y + size * 2.6), size)
        y += size * sheet.rng.uniform(3, 4)


def slide(sheet: Sheet) -> None:
    """A large title, points below it, perhaps a picture beside them."""
    box = sheet.body()
    size = max(9, round(sheet.height / sheet.rng.uniform(14, 26)))
    top = sheet.heading(box, size * 1.6) + size
    left, right = box.below(top).columns(2, gap=size) if sheet.chance(0.5) else (box.below(top), None)
    sheet.points(left, size)
    if right is not None:
        _figure(sheet, right)


def receipt(sheet: Sheet) -> None:
    """Names at the left and sums at the right, in a narrow column."""
    box = sheet.body()
    size = max(8, round(box.width / sheet.rng.uniform(16, 30)))
    y = sheet.heading(box, size * 1.3, align="centre")
    y = sheet.lines(box.below(y), size, most=3, align="centre") + size
    y = sheet.sums(box.below(y).above(box.bottom - size * 4), size)
    sheet.rule(box.left, y, box.right)
    y = sheet.lines(box.below(y + size), size, most=2, align="centre")
    sheet.bars_of_code(box.below(y + size), size)


def notes(sheet: Sheet) -> None:
    """Large uneven lines, as if written by hand, on plain or ruled paper."""
    box = sheet.body()
    size = max(10, round(sheet.height / sheet.rng.uniform(12, 36)))
    if sheet.chance(0.4):
        y = box.top
        while y < box.bottom:
            sheet.rule(box.left, y, box.right)
            y += size * 1.6
    y = box.top
    while y + size < box.bottom * sheet.rng.uniform(0.8, 1.05):
        offset = sheet.rng.uniform(0, size) if sheet.chance(0.3) else 0.0
        line = Box(box.left + offset, y, box.right - sheet.rng.uniform(0, 0.15) * box.width, box.bottom)
        sheet.lines(line, size, most=1, uneven=0.12)
        y += size * 1.6


def labelled(sheet: Sheet) -> None:
    """A map or a drawing with names on it."""
    box = sheet.body()
    size = sheet.text_size()
    if sheet.chance(0.6):
        box = box.below(sheet.heading(box, size * 1.5) + size)
    sheet.shapes(box)
    for _ in range(int(sheet.rng.integers(8, 40))):
        x, y = (
            sheet.rng.uniform(box.left, box.right - box.width * 0.2),
            sheet.rng.uniform(box.top, box.bottom - size),
        )
        sheet.words(x, y, max(6, round(size * sheet.rng.uniform(0.7, 1.6))), int(sheet.rng.integers(1, 3)))


def columns_down(sheet: Sheet) -> None:
    """Writing from top to bottom, the first column at the right; in scripts without it, large text."""
    box = sheet.body()
    if not sheet.face.script.columns:
        sheet.paragraphs(box, max(9, round(sheet.height / sheet.rng.uniform(10, 24))))
        return
    size = max(8, round(sheet.height / sheet.rng.uniform(12, 70)))
    for part in box.rows(int(sheet.rng.integers(1, 4)), gap=size * 1.5):
        if sheet.chance(0.3):
            sheet.write_down(
                Box(part.right - size * 2, part.top, part.right, part.bottom), round(size * 1.5), most=1
            )
            part = Box(part.left, part.top, part.right - size * 3, part.bottom)
        sheet.write_down(part, size)


def report(sheet: Sheet) -> None:
    """Numbered sections with a coloured bar or a figure, the text in one column or beside it."""
    box = sheet.body()
    size = sheet.text_size()
    if sheet.chance(0.6):
        sheet.bar(Box(box.left, box.top, box.right, box.top + size * 3), size * 2)
        box = box.below(box.top + size * 4)
    if sheet.chance(0.4):
        side, box = box.columns(2, gap=size * 2, first=sheet.rng.uniform(0.2, 0.45))
        sheet.points(side, size)
    y = box.top
    while y + size * 6 < box.bottom:
        y = sheet.heading(box.below(y), size * 1.2)
        end = min(box.bottom, y + size * sheet.rng.uniform(6, 24))
        _fill(sheet, Box(box.left, y + size * 0.4, box.right, end), size)
        y = end + size


def letter(sheet: Sheet) -> None:
    """Addresses, a date, a few paragraphs, a name; the rest of the page is empty."""
    box = sheet.body()
    size = sheet.text_size()
    for _ in range(int(sheet.rng.integers(3, 6))):
        sheet.words(box.left, box.top, size, 3)
        box = box.below(box.top + size * 1.3)
    sheet.words(box.left + box.width * 0.65, box.top, size, 2)
    box = box.below(box.top + size * 3)
    end = box.top + box.height * sheet.rng.uniform(0.4, 0.8)
    sheet.paragraphs(box.above(end), size)
    sheet.words(box.left + box.width * sheet.any_of(0.0, 0.6), end + size * 3, size, 2)


def newspaper(sheet: Sheet) -> None:
    """A banner, headlines of many sizes, four to six narrow columns."""
    box = sheet.body()
    size = max(6, round(sheet.height / sheet.rng.uniform(75, 95)))
    y = sheet.heading(box, size * 4, align="centre")
    sheet.rule(box.left, y + size * 0.5, box.right)
    for part in box.below(y + size).rows(int(sheet.rng.integers(1, 4)), gap=size):
        top = sheet.heading(part, size * sheet.rng.uniform(2, 3.2))
        for column in part.below(top + size * 0.5).columns(int(sheet.rng.integers(4, 7)), gap=size):
            if sheet.chance(0.15):
                _figure(sheet, column.above(column.top + column.height * 0.5))
                column = column.below(column.top + column.height * 0.55)
            sheet.paragraphs(column, size, align="justified", indent=True)


def invoice(sheet: Sheet) -> None:
    """A name, two addresses side by side, a table of sums and a total at its foot."""
    box = sheet.body()
    size = sheet.text_size()
    y = sheet.heading(box, size * 2) + size
    for cell in box.below(y).columns(2, gap=box.width * 0.2):
        sheet.lines(cell, size, most=4)
    y += size * 7
    y = sheet.grid(box.below(y), size, rows=int(sheet.rng.integers(3, 15)))
    sheet.sums(Box(box.left + box.width * 0.6, y + size, box.right, min(y + size * 6, box.bottom)), size)
    sheet.lines(box.below(max(y + size * 8, box.bottom - size * 3)), size, most=2)


def contents(sheet: Sheet) -> None:
    """A list of headings, the page's number at the end of a row of dots."""
    box = sheet.body()
    size = sheet.text_size()
    y = sheet.heading(box, size * 1.8) + size * 2
    while y + size * 1.5 < box.bottom:
        depth = int(sheet.rng.integers(0, 3))
        sheet.dotted(Box(box.left + depth * size * 2, y, box.right, y + size), size)
        y += size * (1.6 + (depth == 0))


def open_book(sheet: Sheet) -> None:
    """Two pages side by side with the fold between them."""
    box = sheet.body()
    size = max(6, round(sheet.height / sheet.rng.uniform(36, 56)))
    for page in box.columns(2, gap=box.width * 0.1):
        if sheet.face.script.columns and sheet.vertical:
            sheet.write_down(page, size)
        else:
            page = page.below(sheet.lines(page, size, most=1, align="centre") + size)
            sheet.paragraphs(page, size, align="justified", indent=True)
    sheet.fold()


TRAIN: Final = (article, book, table, form, slide, receipt, notes, labelled, columns_down, report)
HELD_OUT: Final = (letter, newspaper, invoice, contents, open_book)
LANDSCAPE: Final = frozenset((slide, open_book))
NARROW: Final = frozenset((receipt,))


def _fill(sheet: Sheet, box: Box, size: int) -> None:
    """Text with a figure or a table in a part of it."""
    if box.height > size * 20 and sheet.chance(0.4):
        share = sheet.rng.uniform(0.2, 0.45)
        at = box.top + box.height * sheet.rng.uniform(0, 1 - share)
        sheet.paragraphs(box.above(at), size)
        part = Box(box.left, at + size, box.right, at + box.height * share)
        if sheet.chance(0.7):
            _figure(sheet, part)
        else:
            sheet.grid(part, max(5, round(size * 0.9)), rows=8)
        box = box.below(at + box.height * share)
        if sheet.chance(0.7):
            box = box.below(sheet.lines(box, max(5, round(size * 0.85)), most=2) + size)
    sheet.paragraphs(box, size)


def _figure(sheet: Sheet, box: Box) -> None:
    """A photograph's likeness, a drawing with names, or a chart."""
    width, height = round(box.width), round(box.height)
    if min(width, height) < 16:
        return
    kind = sheet.rng.random()
    if kind < 0.5:
        ground = draw_background(sheet.rng, height, width)
        if sheet.chance(0.5):
            ground = np.broadcast_to(ground.mean(axis=0), ground.shape).copy()
        picture = as_image(ground * np.float32(255))
        if sheet.chance(0.5):
            picture = picture.filter(ImageFilter.GaussianBlur(1))
        sheet.image.paste(picture, (round(box.left), round(box.top)))
    elif kind < 0.75:
        sheet.shapes(box)
        for _ in range(4):
            x, y = sheet.rng.uniform(box.left, box.right - 20), sheet.rng.uniform(box.top, box.bottom - 8)
            sheet.words(x, y, 8, 1)
    else:
        sheet.chart(box)
