"""What a run says and checks before its first step, and that none of it changes the run."""

from __future__ import annotations

import csv
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.data.check import LabelCount
from flexdetr.data.loader import TrainingLoader
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit, preflight
from flexdetr.engine import state as run_state
from flexdetr.engine.pace import Pace, duration
from flexdetr.engine.preflight import DiskSpaceError, label_warnings
from flexdetr.presets import resolve


def settings(**train):
    train = {"epochs": 2, "batch_size": 2, "eval_every": 2, "report": False, **train}
    return resolve("flexdetr_pico", image_size=64, data={"workers": 0}, train=train)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("preflight"), train=4, val=2, test=0, size=(96, 96))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return fit.train(data, settings(), out=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_labels_are_counted_and_kept(data, run):
    document = json.loads((data / "annotations" / "instances_train.json").read_text())
    with (run.folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    for category in document["categories"]:
        mine = [one for one in document["annotations"] if one["category_id"] == category["id"]]
        row = rows[category["name"]]
        assert int(row["id"]) == category["id"]
        assert int(row["train_objects"]) == len(mine)
        assert int(row["train_images"]) == len({one["image_id"] for one in mine})
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "class" in log
    assert "samples.png" in log
    assert "s a step" in log
    assert "until about 20" in log


def test_a_tiny_data_set_gives_as_many_samples_as_it_has(run):
    assert "4 training samples" in (run.folder / "log.txt").read_text(encoding="utf-8")
    with Image.open(run.folder / "samples.png") as sheet:
        assert 4 * 320 < sheet.size[0] < 5 * 320
        assert 320 < sheet.size[1] < 2 * 320


def test_the_samples_are_those_that_the_run_trains_on(data):
    dataset = fit.read(data)
    config = resolve(
        "flexdetr_pico", image_size=64, data={"workers": 0, "mosaic": 0.5, "mixup": 0.3}, train={"epochs": 1}
    )
    loader = TrainingLoader(
        dataset.split("train"), config, len(dataset.classes), batch_size=3, seed=5, workers=0
    )
    (shown,) = loader.preview(7, "mosaic", 2)
    batch = next(loader.epoch(7, "mosaic"))
    assert len(shown) == 2
    assert torch.equal(shown.images, batch.images[:2])
    assert all(map(torch.equal, shown.targets.boxes, batch.targets.boxes))
    assert shown.image_ids == batch.image_ids[:2]


def test_boxes_are_drawn_where_the_targets_are():
    from flexdetr.data.batches import Batch
    from flexdetr.model.outputs import Targets

    grey = torch.full((2, 3, 64, 128), 128, dtype=torch.uint8)
    boxes = [torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    batch = Batch(grey, Targets(labels, boxes, [1, 2]), torch.tensor([[64, 128]] * 2), [1, 2])
    classes = Classes.of(["a", "b"])
    drawn = np.asarray(preflight.draw_sample(batch, 0, classes))
    assert drawn.shape == (160, 320, 3)
    assert (drawn[80, 80] != 128).any()  # the left side of the box
    assert (drawn[119, 160] != 128).any()  # its lower side
    assert (drawn[80, 160] == 128).all()
    assert (np.asarray(preflight.draw_sample(batch, 1, classes)) == 128).all()


def test_looking_changes_nothing(data, run, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "write_samples", lambda _run: 0)
    monkeypatch.setattr(Pace, "step", lambda _pace: None)
    blind = fit.train(data, settings(), out=tmp_path / "blind", quiet=True)
    one, two = run_state.load(run.folder), run_state.load(blind.folder)
    for key in ("model", "ema"):
        first, second = (state[key]["model"] if key == "ema" else state[key] for state in (one, two))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one["random"][0]["torch"], two["random"][0]["torch"])
    assert one["random"][0]["python"] == two["random"][0]["python"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(data, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage)
    with pytest.raises(
        DiskSpaceError, match=r"needs .* MB \(\d+ bytes\).*1 MB \(1000000 bytes\) free.*--out"
    ):
        fit.train(data, settings(), out=tmp_path / "deep" / "run", quiet=True)
    assert not (tmp_path / "deep").exists()


def test_the_needed_space_is_what_a_run_takes(data, run, tmp_path):
    dataset = fit.read(data)
    starting = fit.start(settings(), dataset.classes)
    trainer = fit.Trainer(dataset, settings(), starting, tmp_path / "new", quiet=True)
    size = {path.name: path.stat().st_size for path in run.folder.iterdir()}
    most = size["best.safetensors"] + size["last.safetensors"] + 3 * size["state.pt"]
    beside = preflight._BESIDE
    assert most <= preflight.needed_bytes(trainer) <= 1.02 * most + beside
    preflight.check_space(trainer)


def test_images_without_objects_and_wrong_labels_are_spoken_of(tmp_path, caplog):
    root = draw_scenes(tmp_path / "data", train=3, val=1, test=0, size=(96, 96))
    file = root / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"] = []
    file.write_text(json.dumps(document))
    shutil.copyfile(root / "train" / "scene_00001.jpg", root / "val" / "scene_00001.jpg")
    fit.train(root, settings(epochs=1), out=tmp_path / "run", quiet=True)
    assert "no training image has an object" in caplog.text
    assert "is in the val split and" in caplog.text


def test_absent_and_rare_classes_are_named():
    classes = Classes.of([*"abcdefgh"])
    counts = [LabelCount(number, number, 0) for number in (500, 9, 0, 10, 11, 0, 500, 500)]
    absent, rare = label_warnings(classes, counts)
    assert "no training object of c, f:" in absent
    assert "a has 500" in rare
    assert "b (9);" in rare
    assert label_warnings(classes, [LabelCount(5, 1, 0)] * 8) == []


def test_a_run_tells_its_duration_once_and_again_where_evaluations_take_longer(monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 2.0).tolist())
    monkeypatch.setattr("flexdetr.engine.pace.time.monotonic", lambda: next(clock))
    pace = Pace(steps=100, evaluations=3, evaluation=3.0)
    said = [pace.step() for _ in range(20)]
    first = said.index(next(line for line in said if line))
    assert first == 10  # ten measured steps of two seconds
    assert "about 2.00 s a step: 3 min 4 s to go" in said[first]
    assert not any(said[first + 1 :])
    assert pace.epoch() is None
    assert pace.evaluated(2.0) is None
    assert "5 min 40 s" in pace.evaluated(180.0)
    assert duration(8000) == "2 h 13 min"


def test_a_short_first_epoch_is_enough_for_an_estimate(monkeypatch):
    pace = Pace(steps=9, evaluations=1, evaluation=1.0)
    assert [pace.step() for _ in range(3)] == [None] * 3
    assert "to go" in pace.epoch()
    assert Pace(steps=1, evaluations=1, evaluation=1.0).epoch() is None
