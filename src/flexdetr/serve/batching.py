"""Pictures that arrive at about the same time are computed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.detections import Detections

Detect = Callable[[list[NDArray[np.uint8]]], Sequence[Detections]]


class _Waiting(NamedTuple):
    image: NDArray[np.uint8]
    answer: asyncio.Future[Detections]


class Batcher:
    """Collects pictures and has them computed in a thread.

    A batch starts when it is full, or when its first picture has waited for ``wait`` seconds. While one is computed,
    the next collects.

    ``detect`` is called in a thread, one call at a time, with at most ``size`` pictures after ``wait`` seconds;
    ``observe`` is told the number of pictures of each batch.
    """

    def __init__(
        self, detect: Detect, *, size: int, wait: float, observe: Callable[[int], None] = lambda _: None
    ) -> None:
        self._detect = detect
        self._size = size
        self._wait = wait
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "flexdetr-serve")

    async def submit(self, image: NDArray[np.uint8]) -> Detections:
        """The objects of a picture (H, W, 3) uint8 RGB; raises what ``detect`` raised."""
        answer: asyncio.Future[Detections] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image, answer))
        self._arrived.set()
        return await answer

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            while True:
                await self._compute(await self._collect())
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _collect(self) -> list[_Waiting]:
        """The next batch. Pictures stay in the line until it starts, so that none is lost on the way."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        clock = asyncio.get_running_loop().time
        end = clock() + self._wait
        while len(self._waiting) < self._size and clock() < end:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                break
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        return [one for one in batch if not one.answer.done()]  # who asked has gone away

    async def _compute(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._observe(len(batch))
        loop = asyncio.get_running_loop()
        try:
            images = [one.image for one in batch]
            answers = await loop.run_in_executor(self._thread, lambda: list(self._detect(images)))
        except Exception as error:  # it belongs to those who asked; the server goes on
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
