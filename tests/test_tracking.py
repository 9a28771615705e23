"""Objects keep their numbers while they move and cross; what is counted is what moved."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from flexdetr.cli import main
from flexdetr.runtime.detections import Detections
from flexdetr.tracking import LineCount, Tracker, TrackingError, ZoneCount, mot_lines, track


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError, match=r"flexdetr\[track\]"):
        Tracker()
    with pytest.raises(TrackingError, match="bytetrack"):
        Tracker("bytetrak")


def test_the_command_names_the_extra(monkeypatch, tmp_path, capsys):
    pytest.importorskip("cv2")
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert main(["track", "anything", str(tmp_path / "film.mp4")]) == 1
    assert "pip install 'flexdetr[track]'" in capsys.readouterr().err


def test_mot_lines():
    found = Detections(
        [[1, 2, 4, 8], [0, 0, 1, 1]], [0.5, 0.9], [7, 7], ["x", "x"], [0, 0], tracker_id=[0, -1]
    )
    assert mot_lines(found, 3) == ["3,1,1.00,2.00,3.00,6.00,0.5000,-1,-1,-1"]
    assert mot_lines(Detections.empty(), 1) == []


def frame(*objects):
    """Objects of 20 pixels at (x, y), best score first."""
    boxes = [[x, y, x + 20, y + 20] for x, y in objects]
    count = len(boxes)
    return Detections(
        boxes, [0.9] * count, [7] * count, ["car"] * count, [0] * count, size=(200, 400), image_id="film"
    )


@pytest.fixture
def two_cars():
    """One goes right, the other left, on lanes of their own; the second is not seen in one frame."""
    return [frame((5 * i, 50), (300 - 5 * i, 120)) if i != 20 else frame((5 * i, 50)) for i in range(50)]


@pytest.mark.parametrize("name", ["bytetrack", "ocsort", "sort"])
def test_numbers_stay_with_their_objects(two_cars, name):
    pytest.importorskip("trackers", reason="trackers is not installed: pip install 'flexdetr[track]'")
    tracks: dict[int, set[float]] = {}
    for found in track(two_cars, name, frame_rate=30):
        assert (found.image_id, found.size) == ("film", (200, 400))
        for number, box in zip(found.tracker_id.tolist(), found.boxes_xyxy.tolist(), strict=True):
            if number >= 0:
                tracks.setdefault(number, set()).add(box[1])
    assert len(tracks) == 2
    assert sorted(map(sorted, tracks.values())) == [[50], [120]]
    with pytest.raises(TrackingError, match="nonsense"):
        Tracker(name, nonsense=1)


def test_frames_without_objects(two_cars):
    pytest.importorskip("trackers", reason="trackers is not installed: pip install 'flexdetr[track]'")
    nothing, *_ = track([Detections.empty(size=(2, 3))])
    assert len(nothing) == 0
    assert nothing.tracker_id.tolist() == []


def test_counts(two_cars):
    pytest.importorskip("supervision", reason="supervision is not installed: pip install 'flexdetr[track]'")
    line, zone = LineCount((150, 0, 150, 199)), ZoneCount([(100, 0), (200, 0), (200, 100), (100, 100)])
    for i, found in enumerate(two_cars):
        ids = [1, 2] if i != 20 else [1]
        numbered = Detections(
            found.boxes_xyxy, found.scores, found.labels, found.names, found.indices, tracker_id=ids
        )
        line.update(numbered)
        zone.update(numbered)
    counted = line.to_json()
    assert sorted((counted["in"], counted["out"])) == [1, 1]
    assert zone.to_json()["tracks"] == 1  # only the upper lane leads through it
    with pytest.raises(TrackingError, match="two ends"):
        LineCount((1, 1, 1, 1))
    with pytest.raises(TrackingError, match="three corners"):
        ZoneCount([(0, 0), (1, 1)])


def test_command_line(tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("trackers", reason="trackers is not installed: pip install 'flexdetr[track]'")
    pytest.importorskip("torch")
    from flexdetr import Detector

    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (96, 64))
    for i in range(6):
        writer.write(np.full((64, 96, 3), 40 * i, np.uint8))
    writer.release()
    detector = Detector("flexdetr_pico", classes=["car"], image_size=64)
    file = detector.save(tmp_path / "random.safetensors")
    from_film = [*detector.track(str(film), threshold=0.0, frame_rate=12.0)]
    images = [np.full((64, 96, 3), 40 * i, np.uint8) for i in range(2)]
    assert len(from_film) == 6
    assert [found.tracker_id is not None for found in detector.track(images, "sort")] == [True, True]
    with pytest.raises(TrackingError, match="no such file"):
        [*detector.track(str(tmp_path / "none.mp4"))]
    words = ["track", str(file), str(film), "--threshold", "0", "--out", str(tmp_path / "out")]
    assert main([*words, "--line", "0,32,96,32", "--zone", "0,0,96,0,96,64", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["frames"], document["rate"], len(document["counts"])) == (6, 12.0, 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "tracks.jsonl").read_text().splitlines()]
    assert [(row["frame"], row["seconds"]) for row in rows][-1] == (6, pytest.approx(5 / 12, abs=1e-3))
    capture = cv2.VideoCapture(str(tmp_path / "out" / "tracks.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FRAME_WIDTH)) == (6, 96)
    capture.release()
    for more, reason in ((["--line", "1,2"], "four numbers"), (["--zone", "a"], "numbers between commas")):
        assert main([*words, *more]) == 2
        assert reason in capsys.readouterr().err
    assert main(["track", str(file), str(tmp_path / "none.mp4")]) == 2
