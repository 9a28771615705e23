"""Objects with one number through the frames of a sequence, by the trackers of roboflow's ``trackers`` package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flexdetr.config import nearest
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.sources import Source, Unreadable, find

# Names -> the package's classes.
TRACKERS = {
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "sort": "SORTTracker",
    "cbiou": "CBIoUTracker",
}


# Lowest score that a tracker sees unless it is told: uncertain objects hold a track that certain ones began.
LOWEST = 0.1


class TrackingError(ValueError):
    """A sequence that cannot be tracked as asked; the message says why."""


class Tracker:
    """Gives objects numbers, frame by frame, in the order of the frames.

    Args:
        name: "bytetrack", "ocsort", "sort" or "cbiou".
        frame_rate: frames in a second.
        **options: of the package's class, like ``lost_track_buffer=60``.

    Raises:
        TrackingError: if there is no such tracker, or no such option.
        ImportError: if trackers is not installed.
    """

    def __init__(self, name: str = "bytetrack", *, frame_rate: float = 30.0, **options: Any) -> None:  # noqa: ANN401
        if name not in TRACKERS:
            raise TrackingError(nearest(name, TRACKERS, "tracker"))
        try:
            import trackers
        except ImportError as error:
            raise ModuleNotFoundError(
                "tracking needs the trackers package: pip install 'flexdetr[track]'", name="trackers"
            ) from error
        try:
            self._tracker = getattr(trackers, TRACKERS[name])(frame_rate=frame_rate, **options)
        except TypeError as error:
            raise TrackingError(f"tracker {name}: {error}") from error

    def update(self, found: Detections) -> Detections:
        """The objects of the next frame with ``tracker_id``: -1 for those that are no track yet.

        Objects that a tracker leaves out are missing; none is added.
        """
        tracked = self._tracker.update(found.to_supervision())
        kept = Detections.from_supervision(tracked, image_id=found.image_id, size=found.size)
        return kept if len(kept) else _with_no_ids(kept)


def track(
    frames: Iterable[Detections],
    name: str = "bytetrack",
    *,
    frame_rate: float = 30.0,
    **options: Any,  # noqa: ANN401
) -> Iterator[Detections]:
    """The objects of each frame of a sequence, numbered; arguments as of ``Tracker``."""
    tracker = Tracker(name, frame_rate=frame_rate, **options)
    for found in frames:
        yield tracker.update(found)


def follow(
    detector: Any,  # noqa: ANN401 - either kind of detector
    frames: str | Path | Iterable[Source],
    name: str = "bytetrack",
    *,
    threshold: float = LOWEST,
    **options: Any,  # noqa: ANN401 - of ``Tracker``
) -> Iterator[Detections]:
    """What a detector finds in a sequence, numbered; see ``Detector.track``.

    Raises:
        TrackingError: if the film cannot be read, or there is no such tracker.
    """
    tracker = Tracker(name, **options)
    if not isinstance(frames, str | Path):
        for frame in frames:
            yield tracker.update(detector.predict(frame, threshold))
        return
    for answer in detector.predict_many(find(frames), threshold):
        if isinstance(answer, Unreadable):
            raise TrackingError(answer.reason)
        yield tracker.update(answer[1])


def mot_lines(found: Detections, frame: int) -> list[str]:
    """The tracked objects of a frame as MOTChallenge's result files have them.

    Args:
        found: with ``tracker_id``; objects without a number are left out.
        frame: from 1.

    Returns:
        ``frame, id, left, top, width, height, score, -1, -1, -1`` in pixels, a line per object; ids begin at 1.
    """
    lines = []
    ids = [] if found.tracker_id is None else found.tracker_id.tolist()
    for number, (x0, y0, x1, y1), score in zip(
        ids, found.boxes_xyxy.tolist(), found.scores.tolist(), strict=True
    ):
        if number >= 0:
            place = f"{x0:.2f},{y0:.2f},{x1 - x0:.2f},{y1 - y0:.2f}"
            lines.append(f"{frame},{number + 1},{place},{score:.4f},-1,-1,-1")
    return lines


@dataclass
class LineCount:
    """Tracks that cross a line, counted by supervision's ``LineZone``.

    Attributes:
        ends: x and y of its two ends, in pixels.
    """

    ends: tuple[float, float, float, float]
    _zone: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        supervision = _supervision()
        x0, y0, x1, y1 = self.ends
        if (x0, y0) == (x1, y1):
            raise TrackingError(f"a line has two ends that differ; got {self.ends}")
        self._zone = supervision.LineZone(supervision.Point(x0, y0), supervision.Point(x1, y1))

    def update(self, found: Detections) -> None:
        """Count the next frame."""
        self._zone.trigger(numbered(found).to_supervision())

    def to_json(self) -> dict[str, Any]:
        """The line, and how many tracks crossed it in either direction so far."""
        return {"line": list(self.ends), "in": int(self._zone.in_count), "out": int(self._zone.out_count)}


@dataclass
class ZoneCount:
    """Tracks that were in a polygon, counted by supervision's ``PolygonZone``: by the middle of a box's lower side.

    Attributes:
        corners: x and y of each, in pixels.
    """

    corners: Sequence[tuple[float, float]]
    _zone: Any = field(init=False, repr=False)
    _seen: set[int] = field(default_factory=set, init=False, repr=False)
    _now: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.corners) < 3:
            raise TrackingError(f"a zone has at least three corners; got {len(self.corners)}")
        self._zone = _supervision().PolygonZone(np.array(self.corners, np.int64))

    def update(self, found: Detections) -> None:
        """Count the next frame."""
        tracks = numbered(found)
        inside = np.asarray(self._zone.trigger(tracks.to_supervision()), dtype=np.bool_)
        self._now = int(inside.sum())
        if tracks.tracker_id is not None:
            self._seen |= set(tracks.tracker_id[inside].tolist())

    def to_json(self) -> dict[str, Any]:
        """The zone, how many tracks were in it so far, and how many are in the last frame."""
        return {
            "zone": [list(corner) for corner in self.corners],
            "tracks": len(self._seen),
            "now": self._now,
        }


def numbered(found: Detections) -> Detections:
    """The objects that are tracks."""
    return _with_no_ids(found[:0]) if found.tracker_id is None else found[found.tracker_id >= 0]


def _with_no_ids(found: Detections) -> Detections:
    return replace(found, tracker_id=np.full(len(found), -1))


def _supervision() -> Any:  # noqa: ANN401 - an optional package
    try:
        import supervision
    except ImportError as error:
        raise ModuleNotFoundError(
            "counting needs the supervision package: pip install 'flexdetr[track]'", name="supervision"
        ) from error
    return supervision
