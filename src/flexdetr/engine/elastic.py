"""A run that torchrun begins again after a process died (``--max-restarts``): it goes on from its last state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flexdetr.config import Config
from flexdetr.engine import state as run_state

_RUN: Final = "TORCHELASTIC_RUN_ID"
_COUNT: Final = "TORCHELASTIC_RESTART_COUNT"


def launch_mark(data: str | Path, config: Config, environment: Mapping[str, str] = os.environ) -> str | None:
    """What a run's states carry, by which a restarted process knows them for its own; None without torchrun."""
    if _RUN not in environment:
        return None
    told = [environment[_RUN], str(Path(data).resolve()), config.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def goes_on(folder: Path, mark: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a folder's state is of the run that this process was begun again for.

    Raises:
        StateError: if no state in the folder can be read.
    """
    if mark is None or int(environment.get(_COUNT, "0")) == 0 or not holds_state(folder):
        return False
    return run_state.load(folder).get("launched") == mark


def holds_state(folder: Path) -> bool:
    """Whether a folder has a resumable state; a kill may leave the former one alone."""
    return any((folder / name).exists() for name in (run_state.FILE, run_state.FORMER))
