"""What ``predict`` leaves in its folder, line by line, whatever happens on the way."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.cli import results as module
from flexdetr.cli.answers import UsageError
from flexdetr.cli.results import Known, Results, ResultsError, make_folder, read_lines, write_json
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.sources import Picture

CLASSES = Classes(("cat", "dog"), (3, 7))
HOW = Computation("PyTorch", "cpu", "fp32", "fp32", "a CPU", ())
FOUND = Detections([[2, 3, 12, 13.5], [0, 0, 4, 4]], [0.9, 0.5], [7, 3], ["dog", "cat"], [1, 0])
IMAGE = np.zeros((40, 60, 3), np.uint8)


def begin(out: Path, known: Known | None = None) -> Results:
    make_folder(out)
    return Results(out, CLASSES, HOW, known)


def test_a_line_is_there_as_soon_as_a_picture_is_done(tmp_path: Path) -> None:
    results = begin(tmp_path)
    for number in range(3):
        results.add(Picture(f"{number}.jpg", IMAGE), FOUND)
        lines = list(read_lines(tmp_path / "detections.jsonl"))
        assert [line["file"] for line in lines] == [f"{i}.jpg" for i in range(number + 1)]
        assert lines[-1]["objects"] == FOUND.to_json()
        assert Image.open(lines[-1]["picture"]).size == (60, 40)
    results.fail("x.jpg", "x.jpg: is no image")
    assert list(results.lines())[-1] == {"file": "x.jpg", "error": "x.jpg: is no image"}
    assert not (tmp_path / "detections.json").exists()


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "detections.jsonl"
    path.write_bytes(b'{"file": "a"}\nnonsense\n[1]\n{"file": "b"}\n{"file": "c", "obj')
    assert [line["file"] for line in read_lines(path)] == ["a", "b"]


def test_the_files_at_the_end(tmp_path: Path) -> None:
    results = begin(tmp_path)
    results.add(Picture("a.jpg", IMAGE), FOUND)
    results.fail("gone.jpg", "gone")
    results.add(Picture("b.jpg", IMAGE), Detections.empty(size=(40, 60)))
    results.finish()
    document = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    assert document["info"]["computation"]["precision"] == "fp32"
    assert document["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.jpg", "height": 40, "width": 60},
    ]
    assert document["categories"] == CLASSES.to_json()
    first = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2.0, 3.0, 10.0, 10.5], "score": 0.9}
    assert document["annotations"][0] == first | {"area": 105.0, "iscrowd": 0}
    listed = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert listed[0] == {key: first[key] for key in ("image_id", "category_id", "bbox", "score")}
    assert len(listed) == 2
    rows = list(csv.DictReader((tmp_path / "detections.csv").open(encoding="utf-8", newline="")))
    assert [(row["image"], row["name"], row["label"]) for row in rows] == [
        ("a.jpg", "dog", "7"),
        ("a.jpg", "cat", "3"),
    ]


def test_a_data_set_s_own_ids(tmp_path: Path) -> None:
    known = Known({(tmp_path / "a.jpg").resolve(): "the-id"}, {"dog": 18, "cat": 17, "owl": 19})
    results = begin(tmp_path / "out", known)
    for name in ("b.jpg", "a.jpg"):
        results.add(Picture(str(tmp_path / name), IMAGE), FOUND)
    results.finish()
    assert results.unknown == 1
    listed = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [(row["image_id"], row["category_id"]) for row in listed] == [("the-id", 18), ("the-id", 17)]
    document = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in document["images"]] == ["the-id"]
    with pytest.raises(UsageError, match="--data has no class 'cat'"):
        begin(tmp_path / "out", Known({}, {"dog": 1}))


def test_another_call_removes_its_own_pictures_and_no_others(tmp_path: Path) -> None:
    begin(tmp_path).add(Picture("a.jpg", IMAGE), FOUND)
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    outside = tmp_path.parent / "outside.jpg"
    outside.write_bytes(b"mine")
    with (tmp_path / "detections.jsonl").open("a") as file:
        file.write(json.dumps({"file": "x", "picture": str(outside)}) + "\n")
    results = begin(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"detections.jsonl", "mine.jpg"}
    results.add(Picture("b.jpg", IMAGE), FOUND)
    results.add(Picture("mine.jpg", IMAGE), FOUND)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"b.jpg", "mine.jpg", "mine-2.jpg"}
    assert (tmp_path / "mine.jpg").read_bytes() == outside.read_bytes() == b"mine"


def test_pictures_of_one_name_and_frames(tmp_path: Path) -> None:
    results = begin(tmp_path)
    for name in ("a/x.jpg", "b/x.JPG", "b/x.gif", "c.mp4#000001", "d/c.mp4#000001", "e/y.webp"):
        results.add(Picture(name, IMAGE), FOUND)
    names = [Path(line["picture"]).name for line in results.lines()]
    assert names == ["x.jpg", "x-2.jpg", "x-3.jpg", "c-000001.jpg", "c-000001-2.jpg", "y.webp"]


def test_nothing_of_a_camera_s_frames_stays_in_memory(tmp_path: Path) -> None:
    results = begin(tmp_path)
    before = {name: len(value) for name, value in vars(results).items() if hasattr(value, "__len__")}
    for number in range(5):
        results.add(Picture(f"camera-0#{number:06d}", IMAGE), FOUND)
    after = {name: len(value) for name, value in vars(results).items() if hasattr(value, "__len__")}
    assert after == before | {"counts": len(CLASSES)}


@pytest.mark.parametrize(("side", "name", "form"), [(65_501, "a.jpg", "PNG"), (16_384, "a.webp", "PNG")])
def test_what_a_format_cannot_hold_becomes_png(side: int, name: str, form: str, tmp_path: Path) -> None:
    results = begin(tmp_path)
    results.add(Picture(name, np.zeros((2, side, 3), np.uint8)), Detections.empty())
    (line,) = results.lines()
    with Image.open(line["picture"]) as written:
        assert (written.format, written.size) == (form, (side, 2))


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
def test_names_that_are_no_utf8_or_very_long(tmp_path: Path) -> None:
    results = begin(tmp_path)
    odd = os.fsdecode(b"gr\xfc\xdfe.jpg")
    results.add(Picture(odd, IMAGE), FOUND)
    results.add(Picture("x" * 250 + ".png", IMAGE), FOUND)
    results.finish()
    document = json.loads((tmp_path / "detections.json").read_bytes().decode("utf-8"))
    assert os.fsencode(document["images"][0]["file_name"]) == os.fsencode(odd)
    assert "gr\\udcfc" in (tmp_path / "detections.csv").read_text(encoding="utf-8")
    assert all(Path(line["picture"]).is_file() for line in results.lines())


def full(after: int) -> Callable[..., None]:
    """Stands in for ``Results._draw``: the disk becomes full after so many pictures."""
    real, count = Results._draw, iter(range(100))

    def draw(self: Results, *arguments: object) -> None:
        if next(count) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, *arguments)  # type: ignore[arg-type]

    return draw


def test_a_full_disk_is_a_sentence_and_keeps_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = begin(tmp_path)
    monkeypatch.setattr(Results, "_draw", full(2))
    results.add(Picture("0.jpg", IMAGE), FOUND)
    results.add(Picture("1.jpg", IMAGE), FOUND)
    with pytest.raises(
        ResultsError, match="No space left on device; what was found in 3 pictures is kept in"
    ):
        results.add(Picture("2.jpg", IMAGE), FOUND)
    lines = list(read_lines(tmp_path / "detections.jsonl"))
    assert [line["picture"] is not None for line in lines] == [True, True, False]
    assert lines[2]["objects"] == FOUND.to_json()


def test_a_copy_that_cannot_be_written_is_told_and_the_objects_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = begin(tmp_path)

    def draw(*_: object) -> None:
        raise OSError("the encoder refuses")

    monkeypatch.setattr(Results, "_draw", draw)
    results.add(Picture("a.jpg", IMAGE), FOUND)
    assert "a.jpg: the annotated copy" in capsys.readouterr().err
    assert (results.pictures, results.failed) == (1, 1)
    (line,) = results.lines()
    assert line["picture"] is None
    assert line["objects"] == FOUND.to_json()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="Not a directory"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "new" / "one")
    assert not make_folder(tmp_path / "new")


def test_json_is_written_piece_by_piece() -> None:
    pieces: list[str] = []
    rows = ({"number": number} for number in range(3))
    write_json(pieces.append, {"a": {"b": [1]}, "rows": rows, "none": iter(())})
    assert json.loads("".join(pieces)) == {
        "a": {"b": [1]},
        "rows": [{"number": 0}, {"number": 1}, {"number": 2}],
        "none": [],
    }
    assert len(pieces) > 8
    assert module.LINES == "detections.jsonl"
