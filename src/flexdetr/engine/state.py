"""The resumable state of a run: everything that an exact continuation needs, written so that a kill cannot tear it."""

from __future__ import annotations

import logging
import random
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexdetr.files import replacing
from flexdetr.weights.container import WeightsError

_log = logging.getLogger(__name__)

FILE = "state.pt"
FORMER = "state.former.pt"
_VERSION = 3


class StateError(RuntimeError):
    """A run that cannot be continued; the message says why."""


def seed_generators(seed: int) -> None:
    """Start every generator that training, or a library it calls, draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from, as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.array(keys, np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        # Of the one device that this process computes on: the next run may find others beside it.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "mps": [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every generator back where ``random_state`` found it; those of devices that are not here are left out."""
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    if state.get("mps") and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"][0])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever draws inside, the run goes on as if nothing had."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def save(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the state; the one before stays beside it, so that a torn file never ends a run.

    Raises:
        StateError: if the disk is full or cannot be written; the former state is still there.
    """
    path = folder / FILE
    with writing(path), replacing(path) as temporary:
        with temporary.open("wb") as file:  # tensor by tensor: no second copy of the weights in memory
            torch.save({"version": _VERSION, **content}, file)
        if path.exists():
            path.replace(folder / FORMER)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, a file is written without which a run cannot go on.

    Raises:
        StateError: if the disk is full or cannot be written, in a sentence.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if (reason := _system_error(error)) is None:
            raise
        raise StateError(
            f"cannot write {path}: {reason}; what was saved before is intact: free some space and use --resume "
            f"{path.parent}"
        ) from error


@contextmanager
def trying_to_write(path: Path, without: str) -> Iterator[None]:
    """Inside, a file is written that a run can do without: where that fails, it is said and the run goes on.

    Args:
        path: the file.
        without: how things stand without it, as the second half of a sentence.
    """
    try:
        yield
    except (OSError, RuntimeError, WeightsError) as error:
        if (reason := _system_error(error)) is None:
            raise
        _log.warning("cannot write %s: %s; %s", path, reason, without)


def _system_error(error: BaseException | None) -> OSError | None:
    """What the file system said, where that is at the bottom of an error; torch's own tells of archives instead."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def load(folder: Path) -> dict[str, Any]:
    """The newest state that can be read; only tensors and plain data are unpickled.

    Raises:
        StateError: if there is none.
    """
    tried = []
    for name in (FILE, FORMER):
        path = folder / name
        if not path.exists():
            continue
        try:
            if not zipfile.is_zipfile(path):  # a torn archive lacks the table at its end
                raise EOFError("the file is incomplete")
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(content, dict):
                raise TypeError(f"it holds a {type(content).__name__}")
        except Exception as error:  # there is no end to what a damaged archive makes torch raise
            _log.warning("%s cannot be read (%s)", path, error)
            tried.append(str(path))
            continue
        if content.get("version") != _VERSION:
            raise StateError(f"{path} has format {content.get('version')}; this FlexDETR writes {_VERSION}")
        return content
    if tried:
        raise StateError(f"no resumable state in {folder}: {', '.join(tried)} cannot be read")
    raise StateError(f"nothing to resume in {folder}: it holds no {FILE}")
