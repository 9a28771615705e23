"""Threads that work ahead of their caller, and a caller that never waits for them without end."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

Given = TypeVar("Given")
Answer = TypeVar("Answer")

LIMIT = "FLEXDETR_WAIT"
_SECONDS = 600.0
_SECONDS_TO_END = 5.0


class PoolError(RuntimeError):
    """Nothing that a pool works on has ended for too long, or the limit for that is no number of seconds."""


def wait_limit() -> float:
    """Seconds that a pool may go without a result: ``FLEXDETR_WAIT``, by default ten minutes.

    Raises:
        PoolError: if the variable holds no positive number.
    """
    text = os.environ.get(LIMIT, "")
    try:
        limit = float(text) if text else _SECONDS
    except ValueError:
        limit = 0.0
    if not 0 < limit < threading.TIMEOUT_MAX:
        raise PoolError(f"{LIMIT} must be a number of seconds above 0; got {text!r}")
    return limit


@dataclass(frozen=True)
class Work(Generic[Answer]):
    """Something that a pool was given to do.

    A message names ``what`` behind "waited for".
    """

    what: str
    future: Future[Answer]


class Pool:
    """A fixed number of threads.

    Unlike ``ThreadPoolExecutor``'s, its threads do not keep the process from ending: one that hangs in native code
    would. Native libraries should be called once on the calling thread before their first call from here: their
    one-time initialisations were seen to wait for each other, the interpreter's lock in hand, when two threads meet in
    them, and no limit helps then.

    ``limit`` is how many seconds the pool may go without any result while something is waited for; None is
    ``wait_limit``.
    """

    def __init__(self, workers: int, name: str, *, limit: float | None = None) -> None:
        self.limit = wait_limit() if limit is None else limit
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        self._futures: set[Future[Any]] = set()
        self._ended = 0
        self._stalled = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Drop what has not begun, and wait for what has; only briefly where something went wrong."""
        for future in [*self._futures]:
            future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + (_SECONDS_TO_END if self._stalled or kind else self.limit)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def submit(
        self,
        what: str,
        function: Callable[..., Answer],
        *arguments: Any,  # noqa: ANN401 - the function's own
    ) -> Work[Answer]:
        """Begin something as soon as a thread is free.

        A message names ``what`` behind "waited for".
        """
        future: Future[Answer] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = function(*arguments)
            except BaseException as error:  # the waiting thread raises it
                self._ended += 1
                future.set_exception(error)
            else:
                self._ended += 1
                future.set_result(answer)

        self._futures.add(future)
        self._jobs.put(job)
        return Work(what, future)

    def result(self, work: Work[Answer]) -> Answer:
        """What it gave, or the exception that it raised.

        Raises:
            PoolError: if nothing in the pool has ended for ``limit`` seconds.
        """
        ended = self._ended
        try:
            while not wait([work.future], timeout=self.limit).done:
                if self._ended == ended:
                    self._stalled = True
                    raise PoolError(
                        f"waited {self.limit:g} seconds for {work.what}, and nothing that was worked on beside it "
                        f"ended either. If the disk, the network or the machine is that slow, set {LIMIT} to more "
                        "seconds; if it happens again, please report it with this file"
                    )
                ended = self._ended
        finally:
            self._futures.discard(work.future)
        return work.future.result()

    def map(
        self,
        function: Callable[[Given], Answer],
        given: Iterable[Given],
        *,
        what: Callable[[Given], str] = str,
    ) -> Iterator[Answer]:
        """The function's answers in the order of what it is given, at most a few calls ahead of the caller.

        A message names ``what`` behind "waited for".

        Raises:
            PoolError: as ``result``.
        """
        waiting: deque[Work[Answer]] = deque()
        for one in given:
            waiting.append(self.submit(what(one), function, one))
            if len(waiting) > 4 * len(self._threads):
                yield self.result(waiting.popleft())
        while waiting:
            yield self.result(waiting.popleft())

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
