"""The verb ``track``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode, Json
from flexdetr.cli.evaluate import Device, File

if TYPE_CHECKING:
    from flexdetr.tracking import LineCount, ZoneCount

_USUAL_RATE = 30.0  # where a film does not state one


def track(
    file: File,
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A film that OpenCV can read.")],
    tracker: Annotated[
        str, typer.Option(metavar="bytetrack|ocsort|sort|cbiou", help="Which tracker.")
    ] = "bytetrack",
    threshold: Annotated[
        float,
        typer.Option(
            metavar="T", min=0, max=1, help="Lowest score that the tracker sees; low ones hold tracks."
        ),
    ] = 0.1,
    line: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Count tracks that cross it; may be repeated."),
    ] = None,
    zone: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y,X,Y,X,Y...", help="Count tracks in this polygon; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("runs/track"),
    draw: Annotated[bool, typer.Option("--video/--no-video", help="Write the film with its tracks.")] = True,
    device: Device = "auto",
    as_json: Json = False,
    _allowed: AllowCode = None,
) -> None:
    """Follow objects through a film: tracks.txt (MOTChallenge), tracks.jsonl, counts, and the film with tracks."""
    import cv2
    import numpy as np

    from flexdetr.classifier import load_detector
    from flexdetr.runtime.sources import Item, Unreadable
    from flexdetr.tracking import Tracker, mot_lines, numbered

    counters = _counters(line or [], zone or [])
    if not video.is_file():
        raise answers.UsageError(f"{video}: there is no such file")
    capture = cv2.VideoCapture(str(video))
    stated = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    rate = stated if 0 < stated < 1000 else _USUAL_RATE
    follow = Tracker(tracker, frame_rate=rate)
    detector = load_detector(file)
    out.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    tracks: set[int] = set()
    frames, reason = 0, None
    with (
        (out / "tracks.txt").open("w", encoding="utf-8") as mot,
        (out / "tracks.jsonl").open("w", encoding="utf-8") as lines,
        answers.counting("tracking") as show_count,
    ):
        for answer in detector.predict_many([Item(str(video), video)], threshold, device=device):
            if isinstance(answer, Unreadable):
                reason = answer.reason
                break
            picture, found = answer
            followed = numbered(follow.update(found))
            frames += 1
            objects = followed.to_json()
            tracks |= {one["tracker_id"] for one in objects}
            for counter in counters:
                counter.update(followed)
            mot.writelines(f"{text}\n" for text in mot_lines(followed, frames))
            row = {"frame": frames, "seconds": round((frames - 1) / rate, 4), "objects": objects}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            if draw:
                if writer is None:
                    size = (picture.image.shape[1], picture.image.shape[0])
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(out / "tracks.mp4"), code, rate, size)
                writer.write(np.ascontiguousarray(np.asarray(followed.plot(picture.image))[:, :, ::-1]))
            show_count(frames, None)
    if writer is not None:
        writer.release()
    if reason is not None:
        answers.note(f"Error: {reason}")
        raise typer.Exit(1)
    counts = [counter.to_json() for counter in counters]
    if as_json:
        answers.show_json(
            {"frames": frames, "rate": rate, "tracks": len(tracks), "counts": counts, "out": str(out)}
        )
        return
    answers.show(f"{frames} frames at {rate:g} in a second, {len(tracks)} tracks: {out}")
    for count in counts:
        answers.show(json.dumps(count))


def _counters(lines: list[str], zones: list[str]) -> list[LineCount | ZoneCount]:
    from flexdetr.tracking import LineCount, ZoneCount

    counters: list[LineCount | ZoneCount] = []
    for text in lines:
        numbers = _numbers(text, "--line")
        if len(numbers) != 4:
            raise answers.UsageError(f"--line takes four numbers like 0,100,640,100; got {text!r}")
        counters.append(LineCount((numbers[0], numbers[1], numbers[2], numbers[3])))
    for text in zones:
        numbers = _numbers(text, "--zone")
        if len(numbers) < 6 or len(numbers) % 2:
            raise answers.UsageError(f"--zone takes x and y of three corners or more; got {text!r}")
        counters.append(ZoneCount(list(zip(numbers[0::2], numbers[1::2], strict=True))))
    return counters


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise answers.UsageError(f"{option} takes numbers between commas; got {text!r}") from None
