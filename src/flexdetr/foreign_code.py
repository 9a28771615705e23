"""A file may name Python code as its backbone; that code runs only where the person says so.

``my_pkg.my_mod:factory`` is fine where a person typed it. From a file (a checkpoint, a configuration, a run's folder, a
plan) it could be any function of any installed package, with arguments of the file's choice: whoever reads the file
would run what its author wants.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "FLEXDETR_TRUST"


def objection(name: str, path: str | Path, typed: Collection[str] = ()) -> str | None:
    """Why a backbone that a file names is not made, or None where there is nothing against it.

    Args:
        name: of the backbone.
        path: of the file, for the message.
        typed: names that the person typed in this call: each is consent.
    """
    if ":" not in name or name.startswith("timm/") or name in typed or name in _trusted():
        return None
    return (
        f"{path} names the backbone {name}: code outside of the file, which would be imported and run. If you trust "
        f"it, say so: --allow-code {name}, in Python backbone={name!r}, or {VARIABLE}={name} in the environment"
    )


def backbones(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The backbone that a configuration's nested values name, where they name one."""
    part = values.get("backbone")
    name = part.get("name") if isinstance(part, Mapping) else part
    return (name,) if isinstance(name, str) else ()


@contextmanager
def allowed(names: Iterable[str]) -> Iterator[None]:
    """Files may name these inside, here and in the processes that are started."""
    former = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join([*_trusted(), *names])
    try:
        yield
    finally:
        if former is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = former


def _trusted() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
