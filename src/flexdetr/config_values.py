"""Nested values before they are a configuration: YAML files, ``key.sub=value`` texts, and laying one over another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from flexdetr.config_part import shown
from flexdetr.model.heads import shared_options
from flexdetr.yaml_text import LONGEST, YamlError, parse_yaml

_SHOWN: Final = 120  # characters of a value in a message
_SIDE: Final = re.compile(r"\s*[0-9]{1,9}\s*")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, which value, and what to do."""


def nearest(word: str, known: Iterable[str], what: str = "name") -> str:
    """A sentence that answers an unknown word with the nearest known ones.

    Args:
        word: what was typed.
        known: what could have been typed.
        what: the kind of thing, for the sentence ("model", "option", "class" ...).

    Returns:
        ``unknown model 'rtdetr_r81'; did you mean 'rtdetr_r18'?``, or a list of all if none is near.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    if near:
        return f"unknown {what} {shown(word)}; did you mean {' or '.join(repr(name) for name in near)}?"
    return f"unknown {what} {shown(word)}; known: {', '.join(choices)}"


def some_of(names: Sequence[object], count: int = 4) -> str:
    """The first of some names, and how many more there are."""
    first = ", ".join(map(str, names[:count]))
    return first if len(names) <= count else f"{first} and {len(names) - count} more"


def one_of(table: Collection[str]) -> AfterValidator:
    """For a field that names a row of a table of parts; another name is answered with the nearest row.

    Args:
        table: is read when a value is checked, so that a row is known as soon as it is there.
    """

    def check(name: str) -> str:
        if name not in table:
            raise PydanticCustomError("unknown_name", "{answer}", {"answer": nearest(name, table, "value")})
        return name

    return AfterValidator(check)


def parse_size(value: int | str) -> tuple[int, int]:
    """``640`` or ``"384x640"`` (height x width) as (height, width).

    Raises:
        ValueError: if the text is neither.
    """
    sides = (value if isinstance(value, str) else shown(value)).lower().split("x")
    if len(sides) > 2 or not all(_SIDE.fullmatch(side) for side in sides):
        raise ValueError(
            f"image size {shown(value)} is neither a number nor HEIGHTxWIDTH, like 640 or 384x640"
        )
    return int(sides[0]), int(sides[-1])


def parse_names(value: object, known: Collection[str], what: str) -> object:
    """``"a,b"``, ``["a", "b"]`` or None as a tuple of known names, each once; what is none of these stays as it is.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        if unknown := next((name for name in value if name not in known), None):
            raise ValueError(nearest(unknown, known, what))
        return tuple(dict.fromkeys(value))
    return value


# Sections under their former names, which runs and files of earlier versions hold.
_FORMER = {"decoder": "head"}


def current_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a whole configuration with its sections under today's names.

    Raises:
        ConfigError: if a section is given under both its names.
    """
    for old, new in _FORMER.items():
        if old in values and new in values:
            raise ConfigError(f"{old!r} is the former name of {new!r}: give one of them")
    return {_FORMER.get(key, key): value for key, value in values.items()}


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, section by section; neither is modified.

    Another backbone's name starts its section anew: options, rate and freezing were meant for the former one. Another
    head takes over the options that it has too.
    """
    return _merge(current_sections(base), current_sections(change))


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        if key in ("backbone", "head"):
            below, value = _named(below), _named(value)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            name = value.get("name", below.get("name"))
            if key in ("backbone", "head") and "name" in below and name != below["name"]:
                below = shared_options(below, str(name)) if key == "head" else {}
            value = _merge(below, value)
        merged[key] = value
    return merged


def _named(section: Any) -> Any:  # noqa: ANN401 - any configuration value
    """``backbone=NAME`` is short for ``backbone.name=NAME``; the head likewise."""
    return {"name": section} if isinstance(section, str) else section


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``["train.lr=1e-4", "backbone=timm/resnet18"]`` as a nested mapping; values are read as YAML.

    Raises:
        ConfigError: if a text has no ``=`` or a value is no YAML.
    """
    nested: dict[str, Any] = {}
    for text in overrides:
        path, sign, raw = text.partition("=")
        if not sign or not path.strip():
            raise ConfigError(f"override {shown(text)} is not of the form key.sub=value")
        try:
            value = parse_yaml(raw)
        except YamlError as error:
            raise ConfigError(f"the value of {shown(text)} cannot be read as YAML: {error}") from error
        nested = merge(nested, nest(path.strip(), _with_numbers(value)))
    return nested


def nest(path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - any configuration value
    """``("loss.box", "siou")`` as ``{"loss": {"box": "siou"}}``."""
    keys = path.split(".")
    if keys[0] == "attention" and len(keys) > 1:  # places contain a dot: attention.backbone.16=ema
        keys = ["attention", ".".join(keys[1:])]
    for key in reversed(keys):
        value = {key: value}
    return value


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _with_numbers(value: Any) -> Any:  # noqa: ANN401 - anything that YAML can hold
    """YAML 1.1, which PyYAML reads, takes ``1e-4`` for a text; people mean the number."""
    if isinstance(value, str):
        return float(value) if _EXPONENT.fullmatch(value) else value
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        ConfigError: if the file is missing, is no YAML, or holds something else than a mapping.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            content = parse_yaml(file.read(LONGEST + 1))
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values; got {type(content).__name__}")
    return {str(key): _with_numbers(value) for key, value in content.items()}
