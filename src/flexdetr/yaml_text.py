"""YAML texts as plain values, for every YAML that the product reads: what a hostile text would cost is refused.

A short text can stand for a huge value: an alias repeats what its anchor names, and aliases of aliases multiply. So a
text is first gone through event by event, which builds nothing, and what it amounts to with its aliases written out
is counted.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

LONGEST: Final = 4 * 2**20  # characters
_VALUES: Final = 250_000
_DEEPEST: Final = 64
# The longest number there is a use for; a longer one would take Python minutes to convert or to print.
_DIGITS: Final = 400
_NUMBER: Final = re.compile(r"[-+0-9a-fxA-FX._:]+")
# The one in C is ten times as fast; a PyYAML that was built without it reads the same.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PlainLoader: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


# What PyYAML lets through where a tagged or written date or number is none.
_NO_VALUE: Final = (ValueError, OverflowError, LookupError, AttributeError, TypeError)


class YamlError(ValueError):
    """A text that is no usable YAML; the message says why."""


def parse_yaml(text: str, *, as_written: bool = False) -> Any:  # noqa: ANN401 - whatever a YAML text can hold
    """The value of a text of one document: mappings, lists, strings, numbers, booleans, dates and None.

    Args:
        text: the document.
        as_written: leave every number, boolean and date the string that it is written as: ``yes`` stays "yes".

    Raises:
        YamlError: if the text is no YAML, has several documents or tags that would make other objects, contains
            itself, nests deeper than 64 levels, or amounts to more than 4 MiB or 250,000 values with its aliases
            written out.
    """
    if len(text) > LONGEST:
        raise YamlError(f"the text has {len(text):,} characters; {LONGEST:,} are the most that is read")
    try:
        _weigh(text)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, in C or in Python
        return yaml.load(text, Loader=_PlainLoader) if as_written else value  # noqa: S506 - makes strings alone
    except YamlError:
        raise
    except (yaml.YAMLError, *_NO_VALUE) as error:
        raise YamlError(str(error)) from error


def _weigh(text: str) -> None:
    """Refuse what amounts to too much; each node weighs (values, characters), an alias as much as its anchor."""
    finished: dict[str, tuple[int, int]] = {}
    open_nodes: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        weight = None
        if isinstance(event, yaml.ScalarEvent):
            _check_number(event)
            weight = (event.anchor, 1, len(event.value))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in finished and event.anchor in {node[0] for node in open_nodes}:
                raise YamlError(f"the value with the anchor &{event.anchor} contains itself{_where(event)}")
            weight = (None, *finished.get(event.anchor or "", (1, 0)))
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1, 0))
            if len(open_nodes) > _DEEPEST:
                raise YamlError(f"values are nested deeper than {_DEEPEST} levels{_where(event)}")
        elif isinstance(event, yaml.CollectionEndEvent):
            weight = open_nodes.pop()
        if weight is None:
            continue
        anchor, values, characters = weight
        if anchor is not None:
            finished[anchor] = (values, characters)
        around, so_far, long = open_nodes[-1]
        open_nodes[-1] = (around, so_far + values, long + characters)
        if open_nodes[-1][1] > _VALUES or open_nodes[-1][2] > LONGEST:
            raise YamlError(
                f"with its aliases written out the text holds more than {_VALUES:,} values or {LONGEST:,} "
                f"characters{_where(event)}"
            )


def _check_number(event: yaml.ScalarEvent) -> None:
    quoted = event.implicit[1]
    if not quoted and len(event.value) > _DIGITS and _NUMBER.fullmatch(event.value):
        raise YamlError(f"a number has {len(event.value):,} digits{_where(event)}")


def _where(event: yaml.Event) -> str:
    mark = event.start_mark
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
