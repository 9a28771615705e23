"""A file may name Python code as its backbone or transforms; that code runs only where the person says so.

``my_pkg.my_mod:factory`` is fine where a person typed it. From a file (a checkpoint, a configuration, a run's folder, a
plan) it could be any function of any installed package, with arguments of the file's choice: whoever reads the file
would run what its author wants.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from flexdetr.config_values import ConfigError, nearest

VARIABLE: Final = "FLEXDETR_TRUST"
_IN_PYTHON: Final = {"backbone": "backbone={name}", "data.transforms": 'data={{"transforms": {name}}}'}


def objection(name: str, path: str | Path, typed: Collection[str] = (), part: str = "backbone") -> str | None:
    """Why a part that a file names is not made, or None if there is nothing against it.

    Args:
        name: of the backbone, or of the transforms' factory.
        path: of the file, for the message.
        typed: names that the person typed in this call: each is consent.
        part: the key that names it, "backbone" or "data.transforms".
    """
    if ":" not in name or name.startswith("timm/") or name in typed or name in _trusted():
        return None
    return (
        f"{path} names the {part} {name}: code outside of the file, which would be imported and run. If you trust "
        f"it, say so: --allow-code {name}, in Python {_IN_PYTHON[part].format(name=repr(name))}, or "
        f"{VARIABLE}={name} in the environment"
    )


def first_objection(values: Mapping[str, Any], path: str | Path, typed: Collection[str] = ()) -> str | None:
    """The first objection to what a configuration's nested values, which stand in a file, name."""
    reasons = (objection(name, path, typed, part) for part, name in named(values).items())
    return next((reason for reason in reasons if reason is not None), None)


def named(values: Mapping[str, Any]) -> dict[str, str]:
    """The backbone and the transforms that a configuration's nested values name, by their keys."""
    backbone, data = values.get("backbone"), values.get("data")
    found = {
        "backbone": backbone.get("name") if isinstance(backbone, Mapping) else backbone,
        "data.transforms": data.get("transforms") if isinstance(data, Mapping) else None,
    }
    return {part: name for part, name in found.items() if isinstance(name, str)}


def imported(reference: str, key: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    """What ``my_pkg.my_mod:factory`` names.

    Args:
        reference: an importable module, a colon, and a name in it.
        key: what names it, for the message, like ``backbone 'my_pkg:net'``.

    Raises:
        ConfigError: if the module cannot be imported, or lacks the name.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}: cannot import {module_name!r}: {error}") from error
    if not hasattr(module, attribute):
        known = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{key}: " + nearest(attribute, known, f"attribute of {module_name}"))
    return getattr(module, attribute)


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
