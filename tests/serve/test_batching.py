"""Batches: full ones at once, others after their wait, and every picture gets its own answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from flexdetr.serve.batching import Batcher


def image(red):
    return np.full((4, 4, 3), (red, 0, 0), np.uint8)


def run(work, detect, **options):
    async def main():
        batcher = Batcher(detect, **{"size": 4, "wait": 0.01} | options)
        worker = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    return asyncio.run(main())


def reds(images):
    return [int(one[0, 0, 0]) for one in images]


def test_every_picture_gets_its_own_answer_and_full_batches_do_not_wait():
    sizes = []

    async def work(batcher):
        return await asyncio.gather(*(batcher.submit(image(red)) for red in range(10)))

    # Were full batches to wait, this would take minutes and time out.
    found = run(work, reds, size=5, wait=600, observe=sizes.append)
    assert found == [*range(10)]
    assert sizes == [5, 5]


def test_a_batch_that_is_not_full_starts_after_its_wait():
    assert run(lambda batcher: batcher.submit(image(7)), reds, size=100) == 7


def test_a_failure_belongs_to_its_batch_and_the_next_goes_on():
    def detect(images):
        if 13 in reds(images):
            raise RuntimeError("13")
        return reds(images)

    async def work(batcher):
        with pytest.raises(RuntimeError, match="13"):
            await batcher.submit(image(13))
        return await batcher.submit(image(14))

    assert run(work, detect) == 14


def test_pictures_that_nobody_waits_for_are_not_computed():
    seen = []

    def detect(images):
        seen.extend(reds(images))
        return reds(images)

    async def work(batcher):
        gone = asyncio.create_task(batcher.submit(image(1)))
        await asyncio.sleep(0)
        gone.cancel()
        return await batcher.submit(image(2))

    assert run(work, detect) == 2
    assert seen == [2]
