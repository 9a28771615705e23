"""Which torch.export programs are opened: those that were exported here, and those that the person trusts.

A ``.pt2`` file is code. ``torch.export.load`` (2.15) unpickles what the file says is to be unpickled, evaluates
the expressions in it, and calls the functions that its graph names. A seal and a sha256 do not help: who means harm
computes them too. So the sha256 of every program that is written here is kept beside the other things in the cache.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flexdetr.files import sha256
from flexdetr.foreign_code import VARIABLE
from flexdetr.runtime.artifact import ArtifactError
from flexdetr.runtime.cache import cache_folder

_log = logging.getLogger(__name__)
_written: set[str] = set()  # by this process, which may have no place to keep it


def remember(path: Path) -> None:
    """Note that a program was written here."""
    digest = sha256(path)
    _written.add(digest)
    try:
        _place(digest).parent.mkdir(parents=True, exist_ok=True)
        _place(digest).touch()
    except OSError as error:
        _log.warning(
            "%s cannot be written (%s): the next process will ask for %s=%s before it opens %s",
            _place(digest),
            error.strerror or error,
            VARIABLE,
            digest,
            path,
        )


def refuse_unknown(path: Path) -> None:
    """Let a program be opened that was written here, or that the person names.

    Raises:
        ArtifactError: if it is neither.
    """
    digest = sha256(path)
    trusted = os.environ.get(VARIABLE, "").split(",")
    if digest in _written or digest in trusted or _place(digest).is_file():
        return
    raise ArtifactError(
        f"{path} is a program of torch.export, which runs code when it is opened, and it was not exported on this "
        f"machine. If you trust who made it, say so with {VARIABLE}={digest} in the environment; or export the "
        "checkpoint here"
    )


def _place(digest: str) -> Path:
    return cache_folder() / "programs" / digest
