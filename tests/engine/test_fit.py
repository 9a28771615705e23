"""Whole runs on a handful of small scenes: what they leave, and that nothing stops or bends them silently."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flexdetr
from fakes.tiny import SMALL, SMALL_WORDS
from flexdetr.data.dataset import DataError
from flexdetr.data.scenes import CLASSES, draw_scenes
from flexdetr.engine import fit, validation
from flexdetr.engine import state as run_state
from flexdetr.engine.device import choose_precision, precision_name
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.presets import resolve
from flexdetr.weights import store

SETTINGS = {"epochs": 3, "batch_size": 3, "eval_every": 3}


def settings(**train):
    train = {**SETTINGS, **train}
    return resolve("flexdetr_pico", **SMALL, image_size=64, data={"workers": 0}, train=train)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("fit"), train=9, val=2, test=2, size=(96, 96))


def content(folder):
    return run_state.load(Path(folder))


def same(one, other):
    """Equal in every tensor and number, whatever the nesting."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


def assert_same_run(one, other):
    first, second = content(one), content(other)
    for key in ("model", "ema", "optimizer", "criterion", "random", "epoch", "batch", "best"):
        assert same(first[key], second[key]), key


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return fit.train(data, settings(), out=out, quiet=True)


def test_a_run_leaves_a_whole_folder(uninterrupted):
    names = {path.name for path in uninterrupted.folder.iterdir()}
    assert {
        "config.yaml",
        "metrics.csv",
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "log.txt",
    } <= names
    with (uninterrupted.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert rows[-1]["ap"] != "" == rows[0]["ap"]
    metadata = store.read_metadata(uninterrupted.best)
    assert metadata.image_size == (64, 64)
    assert metadata.training["epochs"] == 3
    assert metadata.training["validation"]["ap"] == pytest.approx(uninterrupted.metrics.ap)


def test_a_run_names_the_precision_of_its_evaluations(data, uninterrupted, tmp_path):
    usual = precision_name(choose_precision("auto", torch.device("cpu")))
    wide = fit.train(data, settings(precision="fp32", epochs=1), out=tmp_path / "run", quiet=True)
    for run, name in ((uninterrupted, usual), (wide, "fp32")):
        log = (run.folder / "log.txt").read_text(encoding="utf-8")
        assert f"steps on cpu in {name}, evaluations too, into" in log
        assert f"on the validation split, computed in {name}" in log
        assert store.read_metadata(run.best).training["validation"]["precision"] == name


def test_the_seed_gives_the_same_run(data, uninterrupted, tmp_path):
    fit.train(data, settings(), out=tmp_path / "again", quiet=True)
    assert_same_run(uninterrupted.folder, tmp_path / "again")


def test_a_script_that_is_interrupted_shows_no_way_through_the_loop(data, tmp_path):
    class Impatient:
        def on_step(self, _moment):
            os.kill(os.getpid(), signal.SIGINT)

    detector = flexdetr.Detector("flexdetr_pico", classes=CLASSES, image_size=64, **SMALL)
    options = {"epochs": 2, "batch_size": 2, "data": {"workers": 0}}
    with pytest.raises(fit.Interrupted, match="--resume") as stopped:
        detector.train(data, out=tmp_path / "run", quiet=True, callbacks=[Impatient()], **options)
    assert len(stopped.traceback) == 2  # the caller's line and the library's
    assert stopped.value.__suppress_context__


@pytest.mark.parametrize(
    ("stop_after", "how"), [(1, signal.SIGINT), (3, signal.SIGTERM), (5, signal.SIGINT)], ids=str
)
def test_stopped_and_resumed_equals_uninterrupted(
    data, uninterrupted, tmp_path, monkeypatch, stop_after, how
):
    steps = 0
    step = fit.Trainer._step

    def counted(self, batch):
        nonlocal steps
        step(self, batch)
        steps += 1
        if steps == stop_after:
            os.kill(os.getpid(), how)

    monkeypatch.setattr(fit.Trainer, "_step", counted)
    with pytest.raises(fit.Interrupted, match="--resume"):
        fit.train(data, settings(), out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    fit.resume(tmp_path / "run", quiet=True)
    assert_same_run(uninterrupted.folder, tmp_path / "run")


def command_line(data, out, workers):
    command = [sys.executable, "-m", "flexdetr", "train", str(data), "--model", "flexdetr_pico", *SMALL_WORDS]
    command += ["--image-size", "64", "--epochs", "3", "--batch-size", "3", "--out", str(out)]
    return [*command, "--set", f"data.workers={workers}", "--set", "train.eval_every=3"]


def test_killed_and_resumed_equals_uninterrupted(data, uninterrupted, tmp_path):
    out = tmp_path / "run"
    command = command_line(data, out, workers=0)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not (out / run_state.FILE).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (out / run_state.FILE).exists()
    fit.resume(out, quiet=True)
    assert_same_run(uninterrupted.folder, out)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_a_job_whose_every_process_is_told_to_end_is_resumable(data, uninterrupted, tmp_path):
    """As Slurm, systemd and containers stop a job: the loader's workers get the signal too."""
    out = tmp_path / "run"
    command = command_line(data, out, workers=1)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    limit = time.monotonic() + 120
    while not (out / run_state.FILE).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 130, said
    assert "--resume" in said
    fit.resume(out, quiet=True)
    assert_same_run(uninterrupted.folder, out)


def test_accumulated_micro_batches_train_like_the_whole_batch(data, tmp_path):
    """Denoising included; up to the statistics of the norms, which see fewer images: here they are frozen."""
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    config = settings(precision="fp32")
    trainer = fit.Trainer(dataset, config, fit.start(config, dataset.classes), tmp_path, quiet=True)
    batch = next(iter(trainer.loader.epoch(0, "plain")))
    trainer.model.train()
    for part in trainer.model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    gradients = []
    for trainer.parts in (1, 3):
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.gradients(batch, 0)
        gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    squares = [(summed - whole).square().sum() for whole, summed in zip(*gradients, strict=True)]
    assert sum(squares) ** 0.5 < 1e-6 * sum(whole.square().sum() for whole in gradients[0]) ** 0.5


def test_images_without_objects_train_normally(tmp_path):
    root = draw_scenes(tmp_path / "data", train=4, val=2, test=0, size=(96, 96))
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        document = json.loads(file.read_text())
        if split == "train":
            keep = document["images"][0]["id"]
            document["annotations"] = [row for row in document["annotations"] if row["image_id"] == keep]
        else:
            document["annotations"] = []
        file.write_text(json.dumps(document))
    run = fit.train(root, settings(epochs=2, batch_size=2, eval_every=1), out=tmp_path / "run", quiet=True)
    assert run.best.exists()
    assert np.isnan(run.metrics.ap)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, monkeypatch):
    config = settings(lr=1e-3, epochs=4, eval_every=1)
    losses = fit.Trainer._losses

    def poisoned(self, batch, step):
        if step.number == 4:
            with torch.no_grad():
                self.model.head.scores[0].weight.fill_(float("nan"))
        return losses(self, batch, step)

    monkeypatch.setattr(fit.Trainer, "_losses", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 4.*last good state once already") as caught:
        fit.train(data, config, out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert "Back at epoch 2, step 0" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    dumped = torch.load(tmp_path / "run" / "faults" / "step-4-rank-0.pt", weights_only=True)
    assert dumped["image_ids"] == list(caught.value.image_ids)
    assert len(dumped["images"]) == len(dumped["boxes"]) == 3
    state = store.load(tmp_path / "run" / "best.safetensors")[0]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
    assert len(caught.value.image_ids) == 3
    assert all(repr(image_id) in str(caught.value) for image_id in caught.value.image_ids)
    fit.resume(tmp_path / "run", quiet=True)


def test_a_broken_image_is_refused_before_the_first_step_unless_skipped(tmp_path):
    root = draw_scenes(tmp_path / "data", train=4, val=2, test=0, size=(96, 96))
    picture = sorted((root / "train").glob("*.jpg"))[1]
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DataError, match=picture.name):
        fit.train(root, settings(), out=tmp_path / "run", quiet=True)
    config = settings(epochs=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"skip_bad": True})})
    assert fit.train(root, config, out=tmp_path / "other", quiet=True).best.exists()


def test_patience_ends_a_run_that_no_longer_gets_better(data, tmp_path, monkeypatch):
    real, scores = validation.evaluate, iter([0.1, 0.3, 0.2, 0.3, 0.9])

    def scored(*arguments, **options):
        return replace(real(*arguments, **options), ap=next(scores))

    monkeypatch.setattr(validation, "evaluate", scored)
    config = settings(epochs=8, eval_every=1, patience=0.25, report=False)
    run = fit.train(data, config, out=tmp_path / "run", quiet=True)
    with (run.folder / "metrics.csv").open(newline="") as file:
        assert [float(row["ap"]) for row in csv.DictReader(file)] == [0.1, 0.3, 0.2, 0.3]
    assert run.metrics.ap == 0.3
    assert store.read_metadata(run.best).training["validation"]["epoch"] == 2
    again = fit.resume(run.folder, quiet=True)  # there is nothing left to do
    assert again.metrics.ap == 0.3
    assert next(scores) == 0.9


def test_results_carry_the_data_sets_own_ids(data, uninterrupted):
    detector = flexdetr.load(uninterrupted.best)
    rows = json.loads((data / "annotations" / "instances_train.json").read_text())["categories"]
    assert dict(zip(detector.classes.names, detector.classes.ids, strict=True)) == {
        row["name"]: row["id"] for row in rows
    }
    picture = next((data / "test").glob("*.jpg"))
    found = detector.predict(picture, threshold=0.0)
    assert len(found)
    known = {row["id"]: row["name"] for row in rows}
    assert all(known[int(label)] == name for label, name in zip(found.labels, found.names, strict=True))
    with Image.open(picture) as image:
        width, height = image.size
    assert found.boxes_xyxy.min() >= 0
    assert (found.boxes_xyxy.max(0) <= [width, height, width, height]).all()


def test_a_detector_trains_and_holds_the_best_weights(data, tmp_path):
    detector = flexdetr.Detector("flexdetr_pico", classes=["ball"], image_size=64, **SMALL)
    with pytest.raises(DataError, match="labels objects"):
        detector.train(data, out=tmp_path / "refused", quiet=True, **SETTINGS)
    names = json.loads((data / "annotations" / "instances_train.json").read_text())["categories"]
    classes = {row["id"]: row["name"] for row in reversed(names)}
    detector = flexdetr.Detector("flexdetr_pico", classes=classes, image_size=64, **SMALL)
    run = detector.train(data, out=tmp_path / "run", quiet=True, data={"workers": 0}, **SETTINGS)
    saved, _ = store.load(run.best)
    for name, value in detector.model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert detector.classes.names == tuple(classes.values())


def test_a_data_set_is_found_again_after_a_relative_path_and_after_it_was_moved(tmp_path, monkeypatch):
    """One image name in several folders: ids are relative to the data set, wherever it lies."""
    data, out = tmp_path / "data", tmp_path / "run"
    for folder in ("f1", "f2", "f3"):
        for part in ("images", "labels"):
            (data / part / folder).mkdir(parents=True)
        Image.new("RGB", (96, 64), (90, 80, 70)).save(data / "images" / folder / "0.png")
        (data / "labels" / folder / "0.txt").write_text("0 0.4 0.5 0.4 0.5\n")
    (data / "data.yaml").write_text("train: [images/f1, images/f2]\nval: [images/f3]\nnames: [bolt]\n")
    monkeypatch.chdir(tmp_path)
    fit.train("data", settings(epochs=1, batch_size=2), out=out, quiet=True)
    monkeypatch.chdir(data)
    fit.resume(out, quiet=True)
    monkeypatch.chdir(tmp_path)
    moved = data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is not there; if it was moved.*NEW_PLACE --resume"):
        fit.resume(out, quiet=True)
    fit.resume(out, data="elsewhere", quiet=True)
    assert content(out)["data"] == str(data)  # nothing was left to do, and nothing was written
    (moved / "labels" / "f2" / "0.txt").write_text("0 0.5 0.5 0.4 0.5\n")
    with pytest.raises(DataError, match="has changed"):
        fit.resume(out, data=moved, quiet=True)
