"""How this process takes memory from the operating system."""

from __future__ import annotations

import ctypes
from typing import Final

# From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> None:
    """Has this process keep the memory of freed tensors and use it again, from now on.

    glibc gives every large block back to Linux when it is freed, and Linux clears each of its pages when it is taken
    again: some 50,000 pages in a training step of ``rtdetr_r18``. The process then keeps its largest size, which
    training comes back to at every step. Nothing changes with other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (
        AttributeError,
        OSError,
        TypeError,
    ):  # macOS and musl have none; Windows has no library without a name
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
