"""What tests of runs share."""

from __future__ import annotations

from contextlib import contextmanager

import pytest


@pytest.fixture
def full_disk():
    """A context in which no file grows beyond some bytes: to a program it is a disk that is full."""
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")

    @contextmanager
    def limited(size):
        former = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)

    return limited
