"""What ``flexdetr predict`` keeps in memory while it works through a long film: its resident memory by the minute.

    python benchmarks/film_memory.py ARTIFACT PICTURES --minutes 60 --rate 10

The film is written first: the pictures one after the other, a new one every second. Nothing is drawn (``--draw none``):
what is measured is the way from the file to ``detections.jsonl``, with the files that are made of it at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import psutil

from measure import machine, parser_of

SIZE = (160, 120)  # width and height of a frame


def write_film(path: Path, pictures: list[Path], seconds: int, rate: int) -> None:
    """A picture a second, ``rate`` frames of each."""
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, SIZE)
    for second in range(seconds):
        frame = cv2.resize(cv2.imread(str(pictures[second % len(pictures)])), SIZE)
        for _ in range(rate):
            film.write(frame)
    film.release()


def watched(command: list[str], lines: Path, every: int) -> tuple[list[tuple[int, float]], float]:
    """(frames done, resident MiB) after each ``every`` frames, and the largest of all, with the files at the end."""
    samples: list[tuple[int, float]] = []
    most = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        own = psutil.Process(process.pid)
        done, place = 0, 0
        while process.poll() is None:
            time.sleep(0.2)
            if lines.exists():
                with lines.open("rb") as file:
                    file.seek(place)
                    done += (new := file.read()).count(b"\n")
                    place += len(new)
            try:
                memory = own.memory_info().rss / 2**20
            except psutil.Error:
                break
            if done // every > len(samples):
                samples.append((done, memory))
            most = max(most, memory)
    if process.returncode:
        raise SystemExit(f"predict ended with {process.returncode}")
    return samples, most


def main() -> None:
    """Print a row for each sixth of the film."""
    parser = parser_of(__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", type=Path, help="a folder of JPEGs")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=10, help="frames per second")
    options = parser.parse_args()
    pictures = sorted(options.pictures.glob("*.jpg"))
    if not pictures:
        parser.error(f"{options.pictures} has no *.jpg")
    with tempfile.TemporaryDirectory() as place:
        film, out = Path(place) / "film.mp4", Path(place) / "out"
        write_film(film, pictures, 60 * options.minutes, options.rate)
        command = [sys.executable, "-m", "flexdetr", "predict", str(options.artifact), str(film)]
        command += ["--out", str(out), "--draw", "none"]
        frames = 60 * options.minutes * options.rate
        samples, most = watched(command, out / "detections.jsonl", frames // 6)
    print(f"{machine()}; a film of {options.minutes} minutes, {frames:,} frames\n")
    print("| frames | resident MiB |")
    print("|---|---|")
    for done, memory in samples:
        print(f"| {done:,} | {memory:.0f} |")
    print(f"| the largest, with the files that are made at the end | {most:.0f} |")


if __name__ == "__main__":
    main()
