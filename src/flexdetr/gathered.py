"""The answers for many pictures, taken together."""

from __future__ import annotations

from collections.abc import Iterable

from flexdetr.data.images import ImageError
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.sources import Picture, Unreadable


def gathered(answers: Iterable[tuple[Picture, Detections] | Unreadable]) -> list[Detections]:
    """What was found in each picture; no picture is kept.

    Raises:
        ImageError: if some could not be read, with all reasons, after the others were.
    """
    found: list[Detections] = []
    failed: list[str] = []
    for answer in answers:
        if isinstance(answer, Unreadable):
            failed.append(answer.reason)
        else:
            found.append(answer[1])
    if failed:
        raise ImageError("; ".join(failed))
    return found
