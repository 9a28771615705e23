"""The options that say which frames of films and streams are read, and a window that shows them."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flexdetr.cli import answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexdetr.runtime.films import Part

Every = Annotated[int, typer.Option(metavar="N", min=1, help="Read one frame of N of films and streams.")]
Start = Annotated[str, typer.Option(metavar="TIME", help="Start reading films here: seconds, or 1:02:03.5.")]
End = Annotated[str | None, typer.Option(metavar="TIME", help="Stop reading films and streams here.")]
Reconnect = Annotated[
    int, typer.Option(metavar="N", min=0, help="How often in a row a broken stream is opened again.")
]
Draw = Annotated[
    str,
    typer.Option(
        metavar="auto|film|pictures|none",
        help="Films are drawn as a film or as a picture a frame; auto: a film, but of cameras and streams pictures.",
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Show what is found in a window; q ends.")]

_TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)")
_DRAWN = ("auto", "film", "pictures", "none")


def part_of(every: int, start: str, end: str | None, reconnect: int) -> Part:
    """Which frames are wanted.

    Raises:
        UsageError: if a time is none, or the end is not behind the start.
    """
    from flexdetr.runtime.films import Part

    begin = _seconds(start, "--start")
    until = None if end is None else _seconds(end, "--end")
    if until is not None and until <= begin:
        raise answers.UsageError(f"--end {end} is not after --start {start}: no frame would be read")
    return Part(every, begin, until, reconnect)


def check_drawn(draw: str) -> None:
    """Refuse a way of drawing that there is not.

    Raises:
        UsageError: with the nearest right one.
    """
    from flexdetr.config import nearest

    if draw not in _DRAWN:
        raise answers.UsageError(nearest(draw, _DRAWN, "--draw"))


def _seconds(text: str, option: str) -> float:
    """Seconds of a time like 90, 1:30 or 1:02:03.5."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise answers.UsageError(f"{option} takes seconds, or a time like 1:02:03.5; got {text!r}")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


class Window:
    """A window of this machine's display.

    Raises:
        UsageError: if there is no display, or OpenCV cannot open windows.
    """

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise answers.UsageError("--show needs OpenCV: pip install opencv-python") from error
        # Qt, which OpenCV's windows are made of on Linux, ends the process if there is no display.
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise answers.UsageError("--show needs a display, and there is none (DISPLAY is not set)")
        try:
            cv2.namedWindow("flexdetr", cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise answers.UsageError(
                "--show needs OpenCV with windows: pip uninstall opencv-python-headless, pip install opencv-python"
            ) from error
        self._cv2 = cv2

    def show(self, image: NDArray[np.uint8]) -> bool:
        """Show a picture (H, W, 3) uint8 RGB.

        Returns:
            Whether to go on: not where q or Escape was pressed, or the window closed.
        """
        self._cv2.imshow("flexdetr", image[:, :, ::-1])
        pressed = self._cv2.waitKey(1) & 0xFF
        closed = self._cv2.getWindowProperty("flexdetr", self._cv2.WND_PROP_VISIBLE) < 1
        return not closed and pressed not in (ord("q"), 27)

    def close(self) -> None:
        """Take it from the display."""
        self._cv2.destroyAllWindows()
