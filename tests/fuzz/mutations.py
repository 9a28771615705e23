"""Changes of a file's content, drawn with a seed: what broken copies, other programs and odd people make of files."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

Draw = random.Random

# What stands where something else is expected.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 1e9, -1e9, 1e308, 0.5, -0.0, 1e-320, math.nan, math.inf, -math.inf,
    2**31, 2**63, 2**64 + 1, -(2**63) - 1, 10**30, "", " ", "0", "1", "nan", "-1", "1e999", "x", "true", "null",
    "../../../../etc/passwd", "/dev/zero", "C:\\x\\y.jpg", "a/b", "..", ".", "%2e%2e%2f", "\x00", "\ud800", "\u202e",
    "é" * 50, "x" * 5000, "1" * 400, "🦉", "[1, 2]", "{}", "!!python/name:os.system", "os:getcwd", "https://example.org",
    [], {}, [None], [[]], [{}], [1], [1, 2], ["x", "y"], {"": 0}, {"a": None}, {"id": 1}, [[1, 2], [3]], [0.1] * 4,
    [math.nan] * 4, [1e300] * 4,
)  # fmt: skip
_WORDS = (
    b"", b"nan", b"-1", b"inf", b"1e999", b"99999999999999999999", b"0x10", b"\x00", b"\xff\xfe", b"\xc3\x28",
    b"\xef\xbb\xbf", b"\xe2\x80\xae", b"-", b"0", b"1.5", b"&amp;", b"<", b">", b"{", b"}", b"[", b"]", b"'", b'"',
    b":", b"#", b"*a", b"&a", b"!!int", b"../../x", b"\r", b"\n", b"\t", b",", b";", b"null", b"~", b"yes",
)  # fmt: skip


def raw(content: bytes, draw: Draw) -> bytes:
    """Bytes as bad disks, connections and tools leave them."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        content = draw.choice(_RAW)(content, draw)
    return content


def text(content: bytes, draw: Draw) -> bytes:
    """A text file as a person or a script edits it."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        content = draw.choice(_TEXT)(content, draw)
    return content


def tree(value: Any, draw: Draw) -> Any:
    """A nested value, like a JSON document, with some of what is in it changed; the original stays as it is."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        container, key = draw.choice([*_places(holder)])
        draw.choice(_TREE)(container, key, draw)
        if "" not in holder:  # all of it was taken out
            return draw.choice(ODD)
    return holder[""]


def odd(value: Any, draw: Draw) -> Any:
    """A value in the place of another: near it, or none that fits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and draw.random() < 0.4:
        near: tuple[Callable[[Any], Any], ...] = (
            lambda n: -n,
            lambda n: n + 1,
            lambda n: n - 1,
            lambda n: n * 1000,
            lambda n: n + 0.5,
            str,
            float,
            lambda n: [n],
        )
        return draw.choice(near)(value)
    if isinstance(value, str) and draw.random() < 0.4:
        return draw.choice((value[:-1], value + value, value.upper(), value[::-1], f" {value}", [value]))
    return copy.deepcopy(draw.choice(ODD))


def _places(holder: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [holder]
    while waiting:
        container = waiting.pop()
        keys = range(len(container)) if isinstance(container, list) else [*container]
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], list | dict):
                waiting.append(container[key])
    return found


def _replace(container: Any, key: Any, draw: Draw) -> None:
    container[key] = odd(container[key], draw)


def _take_out(container: Any, key: Any, draw: Draw) -> None:
    del container[key]


def _double(container: Any, key: Any, draw: Draw) -> None:
    if isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[f"{key}2"] = copy.deepcopy(container[key])


def _rename(container: Any, key: Any, draw: Draw) -> None:
    name = draw.choice(("", str(key).upper(), f"{key}s", 0, None, "x" * 300, "é", "__class__", "\ud800"))
    if isinstance(container, list):
        container[key] = {str(name): container[key]}
    else:
        container[name] = container.pop(key)


def _borrow(container: Any, key: Any, draw: Draw) -> None:
    """The value of a neighbour."""
    others = range(len(container)) if isinstance(container, list) else [*container]
    container[key] = copy.deepcopy(container[draw.choice([*others])])


def _wrap(container: Any, key: Any, draw: Draw) -> None:
    for _ in range(draw.choice((1, 2, 60))):
        container[key] = [container[key]]


_TREE: tuple[Callable[[Any, Any, Draw], None], ...] = (
    _replace, _replace, _replace, _replace, _take_out, _take_out, _double, _rename, _borrow, _wrap,
)  # fmt: skip


def _span(content: bytes, draw: Draw, longest: int = 64) -> tuple[int, int]:
    begin = draw.randrange(len(content) + 1)
    return begin, min(len(content), begin + draw.randrange(1, longest))


def _flip(content: bytes, draw: Draw) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 8, 100))):
        # Heads and ends hold what readers believe; the middle is mostly numbers.
        part = draw.choice((len(changed), min(len(changed), 200)))
        place = draw.randrange(part)
        place = len(changed) - 1 - place if draw.random() < 0.3 else place
        changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: Draw) -> bytes:
    return content[: draw.choice((0, 1, 8, 100, len(content) // 2, max(0, len(content) - 1)))]


def _remove(content: bytes, draw: Draw) -> bytes:
    begin, end = _span(content, draw)
    return content[:begin] + content[end:]


def _overwrite(content: bytes, draw: Draw) -> bytes:
    begin, end = _span(content, draw)
    fill = draw.choice((b"\0" * (end - begin), b"\xff" * (end - begin), draw.randbytes(end - begin)))
    return content[:begin] + fill + content[end:]


def _insert(content: bytes, draw: Draw) -> bytes:
    begin, end = _span(content, draw)
    return content[:begin] + draw.randbytes(end - begin) + content[begin:]


def _append(content: bytes, draw: Draw) -> bytes:
    return content + draw.choice((b"\0", b"\n", draw.randbytes(100), content[:1000]))


_RAW = (_flip, _flip, _flip, _cut, _remove, _overwrite, _insert, _append)


def _lines(change: Callable[[list[bytes], Draw], None]) -> Callable[[bytes, Draw], bytes]:
    def changed(content: bytes, draw: Draw) -> bytes:
        lines = content.split(b"\n")
        change(lines, draw)
        return b"\n".join(lines)

    return changed


def _drop_line(lines: list[bytes], draw: Draw) -> None:
    del lines[draw.randrange(len(lines))]


def _double_line(lines: list[bytes], draw: Draw) -> None:
    place = draw.randrange(len(lines))
    lines[place:place] = [lines[place]] * draw.choice((1, 1, 500))


def _swap_lines(lines: list[bytes], draw: Draw) -> None:
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _indent(lines: list[bytes], draw: Draw) -> None:
    place = draw.randrange(len(lines))
    lines[place] = draw.choice((b" ", b"\t", b"    ")) + lines[place]


def _word(content: bytes, draw: Draw) -> bytes:
    """One word, between blanks or marks, for another."""
    marks = b" \n\t<>,:\"'=[]{}"
    starts = [
        i for i in range(len(content)) if content[i] not in marks and (not i or content[i - 1] in marks)
    ]
    if not starts:
        return draw.choice(_WORDS)
    begin = draw.choice(starts)
    end = next((i for i in range(begin, len(content)) if content[i] in marks), len(content))
    return content[:begin] + draw.choice(_WORDS) + content[end:]


def _mark(content: bytes, draw: Draw) -> bytes:
    begin = draw.randrange(len(content) + 1)
    return content[:begin] + draw.choice(_WORDS) + content[begin:]


def _encode(content: bytes, draw: Draw) -> bytes:
    try:
        return content.decode().encode(draw.choice(("utf-16", "utf-32", "cp1252", "utf-8-sig")), "replace")
    except UnicodeDecodeError:
        return content + b"\xff"


_TEXT: tuple[Callable[[bytes, Draw], bytes], ...] = (
    _word, _word, _word, _mark, _lines(_drop_line), _lines(_double_line), _lines(_swap_lines), _lines(_indent), _encode,
    _cut, _flip,
)  # fmt: skip
