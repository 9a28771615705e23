"""On which line of a JSON text the elements of its lists begin: the parser itself does not tell."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path

from flexdetr.data.text import JSON_LONGEST, read_text

_DECODER = json.JSONDecoder()
_GAP = re.compile(r"[\s,:]*")


class JsonLines:
    """Lines in a JSON file whose outermost value is an object; the file is read again when one is asked for first.

    The file was parsed before; ``keys`` are those of the lists that are of interest.
    """

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self._path, self._keys = path, keys

    def of(self, key: str, place: int) -> int | None:
        """The line on which element ``place`` of the list ``key`` begins."""
        lines = self._lines.get(key, [])
        return lines[place] if place < len(lines) else None

    @cached_property
    def _lines(self) -> dict[str, list[int]]:
        text = read_text(self._path, most=JSON_LONGEST)
        position, found = text.find("{") + 1, dict[str, list[int]]()
        while (position := _skip(text, position)) < len(text) and text[position] == '"':
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
            if key in self._keys and text[position : position + 1] == "[":
                found[key], position = _elements(text, position + 1)
            else:
                position = _DECODER.raw_decode(text, position)[1]
        return found


def _skip(text: str, position: int) -> int:
    match = _GAP.match(text, position)
    return match.end() if match else position


def _elements(text: str, position: int) -> tuple[list[int], int]:
    """The lines of a list's elements, and where the list ends."""
    lines: list[int] = []
    line, counted = 1 + text.count("\n", 0, position), position
    while (position := _skip(text, position)) < len(text) and text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        lines.append(line)
        position = _DECODER.raw_decode(text, position)[1]
    return lines, position + 1
