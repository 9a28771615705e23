"""Mappings that stay as they are: a configuration is a value, down to the dictionaries in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, PlainSerializer


class FrozenMapping(Mapping[str, Any]):
    """A mapping without a way to change it, which can be copied, pickled and compared with a dictionary.

    Args:
        values: what it holds; mappings and lists inside are frozen too.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {key: freeze(value) for key, value in values.items()}

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - whatever was put in
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def freeze(value: Any) -> Any:  # noqa: ANN401 - any plain value
    """A plain value without anything in it that could be changed; lists become tuples.

    Raises:
        ValueError: if there is something else than None, booleans, finite numbers, texts, lists and mappings from
            texts: files that keep a configuration could not give it back.
    """
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"a key must be a text; got {strange[0]!r}")
        return FrozenMapping(value)
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a number must be finite; got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"a {type(value).__name__} cannot stand in a configuration; give texts, numbers or lists"
    )


def thaw(value: Any) -> Any:  # noqa: ANN401 - any plain value
    """A copy of a frozen value in dictionaries and lists, which belongs to the caller."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, tuple) else value


_Kind = TypeVar("_Kind", bound=Mapping[str, Any])
Frozen: TypeAlias = Annotated[_Kind, AfterValidator(FrozenMapping), PlainSerializer(thaw)]
"""A configuration's field that holds such a mapping: ``Frozen[Mapping[str, float]]``."""
