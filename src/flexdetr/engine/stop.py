"""Requests to stop: Ctrl-C and SIGTERM wait for a place where a run can be continued from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, after writing a resumable state."""


@contextmanager
def on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C stops at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        stop()
        signal.signal(number, former[signal.Signals(number)])

    with handling(handle) as former:
        yield


@contextmanager
def handling(
    handle: Callable[[int, FrameType | None], None],
) -> Iterator[dict[signal.Signals, Any]]:
    """Gives Ctrl-C and SIGTERM to ``handle`` inside, where this is the main thread; others may not.

    Yields:
        The former handlers, which come back at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield former
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
