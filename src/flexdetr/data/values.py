"""What annotation files hold in the place of a number, an id or a flag, read in one way for every format."""

from __future__ import annotations

import math
import re

# Of a float, larger whole numbers are no longer exact.
_EXACT = 2**53
# Longer texts are no numbers that anybody meant, and Python takes minutes to convert some of them.
_LONGEST = 40
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def number(value: object) -> float | None:
    """A finite number, given as one or as its text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if len(value) > _LONGEST or not _NUMBER.fullmatch(value):
            return None
    elif not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:  # an integer beyond the largest float
        return None
    return result if math.isfinite(result) else None


def whole(value: object) -> int | None:
    """An integer, given as ``1``, ``1.0``, ``"1"`` or ``"1.0"``; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    result = number(value)
    return int(result) if result is not None and result.is_integer() and abs(result) < _EXACT else None


def identity(value: object) -> int | str | None:
    """An id: ``1``, ``1.0`` and ``"1"`` are one, any other text stands for itself; None if it is none.

    >>> identity("7") == identity(7.0) == identity(7) == 7
    True
    """
    result = whole(value)
    if result is not None:
        return result
    return value.strip() if isinstance(value, str) and value.strip() else None


def flag(value: object) -> bool | None:
    """A flag, given as a boolean, as 0 or 1, or as the text of one; nothing is False. None if it is none."""
    if value is None or isinstance(value, bool):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else ""
    result = whole(value)
    if result is not None:
        text = str(result)
    elif not isinstance(value, str):
        return None
    return _FLAGS.get(text)


def shown(value: object, longest: int = 120) -> str:
    """A value for a message: as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]} ..."
