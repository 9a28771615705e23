"""``predict`` of films: frames that are asked for, an annotated film, lines with times, memory that stays the same."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from flexdetr.classes import Classes
from flexdetr.cli import answers, main
from flexdetr.cli.results import Results, make_folder
from flexdetr.data.images import pixels
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.sources import Picture, find, read

cv2 = pytest.importorskip("cv2")
HOW = Computation("PyTorch", "cpu", "fp32", "fp32", "a CPU", ())
FOUND = Detections([[2, 3, 12, 13.5]], [0.9], [1], ["cat"], [0])


def film(path: Path, count: int = 12, size: tuple[int, int] = (64, 48)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, size)
    for number in range(count):
        writer.write(np.full((size[1], size[0], 3), number % 200, np.uint8))
    writer.release()
    return path


def opened(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames, rate, and (width, height)."""
    capture = cv2.VideoCapture(str(path))
    width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS), (width, height)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flexdetr import Detector

    detector = Detector("flexdetr_pico", classes=["cat", "dog"], image_size=64)
    return detector.save(tmp_path_factory.mktemp("model") / "pico.safetensors")


def test_a_film_becomes_a_film_with_times(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = film(tmp_path / "clip.mp4"), tmp_path / "found"
    arguments = [
        "predict",
        str(checkpoint),
        str(path),
        "--out",
        str(out),
        "--every",
        "2",
        "--start",
        "0:00.4",
    ]
    assert main([*arguments, "--end", "1"]) == 0
    assert "sound is not kept" in capsys.readouterr().err
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["seconds"]) for line in lines] == [(4, 0.4), (6, 0.6), (8, 0.8)]
    assert {line["picture"] for line in lines} == {str(out / "clip.mp4")}
    assert opened(out / "clip.mp4") == (3, 5.0, (64, 48))
    assert main([*arguments, "--draw", "pictures"]) == 0
    assert not (out / "clip.mp4").exists()
    assert len([*out.glob("clip-0000*.jpg")]) == 4
    assert main([*arguments, "--draw", "none"]) == 0
    assert {file.suffix for file in out.iterdir()} == {".json", ".jsonl", ".csv"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--start", "soon"], "--start takes seconds"),
        (["--start", "5", "--end", "0:05"], "is not after --start"),
        (["--draw", "films"], "did you mean 'film'?"),
        (["--every", "0"], "--every"),
        (["--show"], "--show needs"),
    ],
)
def test_options_that_are_wrong(
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["predict", "none.safetensors", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_window_shows_what_is_found_and_q_ends(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, ...]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None, raising=False)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image.shape), raising=False)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1, raising=False)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0, raising=False)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(()), raising=False)
    path, out = film(tmp_path / "clip.mp4"), tmp_path / "found"
    assert main(["predict", str(checkpoint), str(path), "--out", str(out), "--show"]) == 0
    assert shown == [(48, 64, 3)] * 3 + [()]
    assert opened(out / "clip.mp4")[0] == 3


def test_films_of_one_name_and_of_another_size(tmp_path: Path) -> None:
    make_folder(tmp_path)
    results = Results(tmp_path, Classes(("cat",), (1,)), HOW)
    for name, side in (("a/x.mp4", 32), ("a/x.mp4", 32), ("b/x.mov", 32), ("b/x.mov", 48)):
        image = np.zeros((side, side, 3), np.uint8)
        results.add(Picture(f"{name}#000000", image, 0, 0.0, 10.0), FOUND, film=True)
    results.finish()
    names = [Path(line["picture"]).name for line in results.lines()]
    assert names == ["x.mp4", "x.mp4", "x-2.mp4", "x-3.mp4"]
    assert opened(tmp_path / "x-3.mp4") == (1, 10.0, (48, 48))


def test_memory_does_not_grow_with_a_film(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        out = tmp_path / str(count)
        make_folder(out)
        results = Results(out, Classes(("cat",), (1,)), HOW)
        items = find(film(tmp_path / f"{count}.mp4", count, (320, 240)))
        tracemalloc.start()
        for picture in read(items, pixels):
            assert isinstance(picture, Picture)
            results.add(picture, FOUND, film=True)
        results.finish()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert results.pictures == count
        return most

    peak(2)  # what is imported on the way
    assert peak(200) < peak(40) + 100_000  # a frame has 230,400 bytes


def test_progress_says_how_many_there_are_only_where_that_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "_SECONDS_BETWEEN_LINES", -1.0)
    with answers.counting("predicting") as show_count:
        show_count(1, 3)
        show_count(4, None)
        show_count(5, 3)
    assert capsys.readouterr().err.splitlines() == ["predicting: 1 of 3", "predicting: 4", "predicting: 5"]
