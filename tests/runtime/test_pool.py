"""Pools: answers in order, exceptions where they are waited for, and no wait without an end."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import wait

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexdetr.runtime import pool as pool_module
from flexdetr.runtime.pool import LIMIT, Pool, PoolError, wait_limit


@given(given_=st.lists(st.integers()), workers=st.integers(1, 5))
def test_map_keeps_the_order(given_, workers):
    with Pool(workers, "test") as pool:
        assert list(pool.map(lambda number: number * 2, given_)) == [number * 2 for number in given_]


def test_map_is_a_few_calls_ahead_only():
    begun = []
    with Pool(1, "test") as pool:
        answers = pool.map(begun.append, range(1000))
        next(answers)
        assert len(begun) < 20
        answers.close()


@pytest.mark.parametrize(
    "error", [ValueError("mine"), TimeoutError("the network's own"), KeyboardInterrupt()]
)
def test_an_exception_is_raised_where_the_answer_is_waited_for(error):
    def fail() -> None:
        raise error

    with Pool(2, "test") as pool:
        work = pool.submit("a picture", fail)
        with pytest.raises(type(error)) as caught:
            pool.result(work)
    assert caught.value is error


def test_what_hangs_is_named_with_the_limit_and_what_to_do():
    free = threading.Event()
    with Pool(1, "test", limit=0.05) as pool:
        hung = pool.submit("cat.jpg", free.wait)
        with pytest.raises(PoolError, match=rf"waited 0\.05 seconds for cat\.jpg.*set {LIMIT} to more"):
            pool.result(hung)
        free.set()


def test_slow_work_is_waited_for_while_other_work_ends(monkeypatch):
    """The limit counts from the last result of the pool, not from the beginning of the wait."""
    last, steps = threading.Event(), []

    def wait_too_short(futures, timeout):
        if steps:
            step, work = steps.pop()
            step.set()
            work.future.result()
        else:
            last.set()
            return wait(futures)
        return wait(futures, timeout=0)

    monkeypatch.setattr(pool_module, "wait", wait_too_short)
    with Pool(2, "test") as pool:
        slow = pool.submit("slow", last.wait)
        for step in (threading.Event(), threading.Event(), threading.Event()):
            steps.append((step, pool.submit("step", step.wait)))
        steps.reverse()
        assert pool.result(slow) is True


def test_what_has_not_begun_is_dropped_at_the_end():
    free, begun = threading.Event(), []
    with Pool(1, "test") as pool:
        first = pool.submit("first", free.wait)
        later = [pool.submit("later", begun.append, number) for number in range(10)]
        threading.Timer(0.05, free.set).start()
    assert first.future.done()
    assert all(work.future.cancelled() for work in later)
    assert begun == []


def test_a_thread_that_hangs_does_not_keep_the_process():
    code = """
import sys, threading
from flexdetr.runtime import pool
pool._SECONDS_TO_END = 0.05
try:
    with pool.Pool(2, "test", limit=0.05) as threads:
        list(threads.map(lambda name: threading.Event().wait(), ["cat.jpg", "dog.jpg"]))
except pool.PoolError as error:
    sys.exit(str(error))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "for cat.jpg" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_limit_that_is_no_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(PoolError, match=f"{LIMIT} must be a number of seconds"):
        wait_limit()


def test_the_limit_of_the_environment(monkeypatch):
    monkeypatch.setenv(LIMIT, "2.5")
    assert Pool(1, "test").limit == 2.5
    monkeypatch.delenv(LIMIT)
    assert wait_limit() == 600
