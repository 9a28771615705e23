"""Notices that a run has stopped moving, says where every thread stands, and frees processes that wait for it."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from flexdetr.engine.state import trying_to_write

T = TypeVar("T")

_log = logging.getLogger(__name__)

FILE = "stall.txt"
_STATUS = 70  # EX_SOFTWARE: not 0, not a signal


class Watchdog:
    """A thread that expects ``beat`` at least every ``limit`` seconds.

    Args:
        limit: seconds without a beat after which the stacks of all threads are written down; 0 watches nothing.
        folder: where to.
        in_work: a sentence on what else was going on, like the images that loader workers are at.
        end: called after twice the limit, where others wait for this process; None never ends it.
    """

    def __init__(
        self, limit: float, folder: Path, in_work: Callable[[], str], end: Callable[[], None] | None
    ) -> None:
        self.limit, self.folder, self.in_work, self.end = limit, folder, in_work, end
        self._doing, self._since, self._told = "starting", time.monotonic(), False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self.limit:
            self.beat(self._doing)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self, doing: str) -> None:
        """The run has moved, and does this now."""
        self._doing, self._since, self._told = doing, time.monotonic(), False

    def each(self, things: Iterable[T], doing: str) -> Iterator[T]:
        """The things, with a beat for each."""
        for thing in things:
            self.beat(doing)
            yield thing

    def _watch(self) -> None:
        while not self._over.wait(self.limit / 20):
            still = time.monotonic() - self._since
            if still > self.limit and not self._told:
                self._told = True
                self._tell(still)
            if still > 2 * self.limit and self.end is not None:
                _log.error(
                    "still nothing after %.0f s: this process ends, so that the others do not wait", still
                )
                self.end()
                return

    def _tell(self, still: float) -> None:
        path = self.folder / FILE
        without = "it would hold the stack of every thread"
        with trying_to_write(path, without), path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        _log.error(
            "no progress for %.0f s while %s. %s. The stack of every thread is in %s",
            still,
            self._doing,
            self.in_work(),
            path,
        )


def end_process() -> None:
    """End this process at once, whatever its threads hang in."""
    os._exit(_STATUS)
