"""Films and streams of other machines: a stream that breaks is opened again, a few times."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Final

from flexdetr.runtime.addresses import SECONDS, Address
from flexdetr.runtime.films import (
    FilmError,
    Frame,
    Part,
    grabbed,
    of_capture,
    open_capture,
    stated_frames,
    stated_rate,
)

_log = logging.getLogger(__name__)

_FFMPEG: Final = 1900  # OpenCV's number of its reader, and of the two limits in milliseconds
_OPEN_LIMIT: Final = 53
_READ_LIMIT: Final = 54
FIRST_WAIT: Final = 0.5
"""Seconds before a stream is tried again; each further try waits twice as long, up to ``LONGEST_WAIT``."""
LONGEST_WAIT: Final = 30.0


def stream(address: Address, part: Part) -> Iterator[Frame]:
    """The frames of a film or a stream.

    What states its length is a film, and ends. All else is a stream: one that ends, broke, and is opened again, up to
    ``part.reconnect`` times in a row. Times are those of the frames' arrival; numbers and times go on where it broke.

    ``address`` is what OpenCV's FFmpeg opens; the end of ``part`` ends a stream.

    Raises:
        FilmError: if it gives no picture at all, or broke and did not come back.
    """
    capture = _opened(address)
    if stated_frames(capture):
        try:
            yield from of_capture(capture, part)
        finally:
            capture.release()
        return
    began, number, tries = time.monotonic(), 0, 0
    while True:
        try:
            rate = stated_rate(capture)
            while capture.grab():
                seconds = time.monotonic() - began
                if part.is_over(seconds):
                    return
                tries = 0
                if part.takes(number, seconds):
                    yield grabbed(capture, number, seconds, rate)
                number += 1
        finally:
            capture.release()
        if not number:
            raise FilmError("gives no picture: is it a stream that FFmpeg can read, and does it run?")
        if part.is_over(time.monotonic() - began):
            return
        if tries >= part.reconnect:
            times = "time" if tries == 1 else "times"
            raise FilmError(f"broke after {number} frames, and did not come back: tried {tries} {times}")
        wait = min(FIRST_WAIT * 2**tries, LONGEST_WAIT)
        tries += 1
        _log.warning("%s: broke after %d frames; try %d of %d", address.shown, number, tries, part.reconnect)
        time.sleep(wait)
        capture = _opened(address)


def _opened(address: Address) -> Any:  # noqa: ANN401 - of OpenCV
    limit = int(SECONDS * 1000)
    return open_capture(address.url, _FFMPEG, [_OPEN_LIMIT, limit, _READ_LIMIT, limit])
