"""Tables of parts name their code as text, so that the configuration reads the tables without torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load_part(place: str) -> Any:  # noqa: ANN401 - a module's class or value, which the table's owner knows
    """What a row of a table of parts stands for.

    Args:
        place: ``package.module:NAME``; the module is imported now.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
