"""``flexdetr data``: what a person types, what is written, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexdetr.cli import main
from flexdetr.data.detect import read
from flexdetr.data.scenes import draw_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=2, test=2, size=(96, 96))


@pytest.fixture
def flexdetr(capsys):
    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def test_convert(flexdetr, scenes, tmp_path):
    status, out, _ = flexdetr("data", "convert", scenes, tmp_path / "yolo", "--to", "yolo")
    assert status == 0
    assert "YOLO, images: 8 train, 2 val, 2 test" in out
    assert read(tmp_path / "yolo", val_fraction=None).classes == read(scenes).classes
    status, out, _ = flexdetr("data", "convert", tmp_path / "yolo", tmp_path / "voc", "--to", "voc", "--json")
    document = json.loads(out)
    assert document["images"] == {"train": 8, "val": 2, "test": 2}
    assert "Pascal VOC has no class ids" in document["notes"][0]
    status, _, error = flexdetr("data", "convert", scenes, tmp_path / "voc", "--to", "voc")
    assert (status, "is not empty" in error) == (1, True)
    status, _, error = flexdetr("data", "convert", scenes, tmp_path / "new", "--to", "cocco")
    assert "coco" in error
    assert status == 1


def test_errors_in_the_data_stop_it_unless_they_are_to_be_left_out(flexdetr, scenes, tmp_path):
    flexdetr("data", "convert", scenes, tmp_path / "data", "--to", "yolo")
    bad = next((tmp_path / "data" / "labels" / "train").iterdir())
    bad.write_text("99 0.5 0.5 0.1 0.1\n")
    status, _, error = flexdetr("data", "convert", tmp_path / "data", tmp_path / "out", "--to", "coco")
    assert status == 1
    assert "class id 99" in error
    assert "--skip-bad" in error
    status, out, _ = flexdetr(
        "data", "convert", tmp_path / "data", tmp_path / "out", "--to", "coco", "--skip-bad"
    )
    assert (status, "7 train" in out, "class id 99" in out) == (0, True, True)


def test_split(flexdetr, scenes, tmp_path):
    words = ("--shares", "0.5/0/0.5", "--stratified", "--seed", "3", "--link")
    status, out, _ = flexdetr("data", "split", scenes, tmp_path / "out", *words)
    assert (status, "COCO, images: 6 train, 6 test" in out) == (0, True)
    status, _, error = flexdetr("data", "split", scenes, tmp_path / "new", "--shares", "0.5/0.5")
    assert (status, "three numbers" in error) == (2, True)
    status, _, error = flexdetr("data", "split", scenes, tmp_path / "new", "--shares", "0.5/0.3/0.3")
    assert (status, "together 1" in error) == (1, True)


def test_merge_tells_of_images_that_are_in_two_splits(flexdetr, scenes, tmp_path):
    flexdetr("data", "split", scenes, tmp_path / "b", "--shares", "0/1/0", "--to", "voc")
    status, out, _ = flexdetr(
        "data", "merge", scenes, tmp_path / "b", "--out", tmp_path / "both", "--to", "coco"
    )
    assert status == 0
    assert "images: 8 train, 14 val, 2 test" in out
    assert "the class ids contradict each other" in out
    assert "keep it in one" in out


def test_stats_and_preview_write_pages(flexdetr, scenes, tmp_path):
    page = tmp_path / "pages" / "stats.html"
    status, out, _ = flexdetr("data", "stats", scenes, "--out", page)
    assert (status, str(page) in out, page.read_text(encoding="utf-8")[:15]) == (0, True, "<!doctype html>")
    status, out, _ = flexdetr("data", "stats", scenes, "--out", page, "--json")
    assert json.loads(out)["splits"]["train"]["images"] == 8
    page = tmp_path / "preview.html"
    status, out, _ = flexdetr("data", "preview", scenes, "--out", page, "--count", 2)
    assert (status, page.exists()) == (0, True)
    status, _, error = flexdetr("data", "preview", scenes, "--out", page, "--class", "balloons")
    assert status != 0
    assert "class" in error


def test_stats_show_labels_that_a_detector_doubts(flexdetr, scenes, tmp_path):
    pytest.importorskip("torch")
    from flexdetr import Detector

    detector = Detector("flexdetr_pico", classes=read(scenes).classes, image_size=64)
    file = detector.save(tmp_path / "random.safetensors")
    page = tmp_path / "stats.html"
    status, _, _ = flexdetr("data", "stats", scenes, "--out", page, "--model", file)
    assert status == 0
    assert "<h2>Labelled, not found</h2>" in page.read_text(encoding="utf-8")
