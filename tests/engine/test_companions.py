"""What trains beside a detector: exact resumes and micro-batches with it, and checkpoints that know nothing of it."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError
from flexdetr.data.loader import Batch
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.checkpoint import blank
from flexdetr.files import sha256
from flexdetr.presets import resolve
from flexdetr.weights import store
from flexdetr.weights.header import read_header

SETTINGS = {"epochs": 2, "batch_size": 3, "eval_every": 2, "report": False}
DENSE = {"loss": {"dense_auxiliary": True}}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small backbone, as a teacher of features."""
    starting = blank(resolve("flexdetr_pico"), Classes(("one",), (0,)))
    file = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    weights = {
        name: value for name, value in starting.model.state_dict().items() if name.startswith("backbone.")
    }
    metadata = replace(starting.metadata, part="backbone", classes=[], licence="CC0-1.0")
    store.save(file, weights, metadata)
    return file


@pytest.fixture(scope="module")
def beside(backbone: Path) -> dict[str, object]:
    """A dense head and a teacher."""
    return {**DENSE, "distill": {"teacher": str(backbone), "share": 0.2}}


def settings(beside: dict[str, object], model: str = "flexdetr_pico", **train: object) -> Config:
    return resolve(model, image_size=64, data={"workers": 0}, train={**SETTINGS, **train}, **beside)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("companions"), train=6, val=1, test=0, size=(96, 96))


@pytest.fixture(scope="module")
def whole(data: Path, beside: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> fit.Run:
    return fit.train(data, settings(beside), out=tmp_path_factory.mktemp("whole") / "run", quiet=True)


def trainer(data: Path, config: Config, folder: Path) -> fit.Trainer:
    """With frozen norms, whose statistics depend on how a step is divided."""
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    run_state.seed_generators(0)
    run = fit.Trainer(dataset, config, fit.start(config, dataset.classes), folder, quiet=True)
    run.model.train()
    for part in (*run.model.modules(), *run.companions.modules()):
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    return run


def test_a_checkpoint_has_the_names_of_one_that_was_trained_alone(
    data: Path, whole: fit.Run, tmp_path: Path
) -> None:
    alone = trainer(data, settings({}), tmp_path)
    for file in (whole.best, whole.last):
        assert set(read_header(file).tensors) == set(alone.model.state_dict())
    assert set(run_state.load(whole.folder)["ema"]["model"]) == set(alone.model.state_dict())


def test_the_detector_starts_as_it_does_alone(data: Path, beside: dict[str, object], tmp_path: Path) -> None:
    one, other = (trainer(data, settings(each), tmp_path) for each in ({}, beside))
    torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), rtol=0, atol=0)


def test_its_losses_are_in_the_runs_table(whole: fit.Run) -> None:
    with (whole.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["dense_bce"]) > 0 for row in rows)
    assert {"dense_ciou", "dense_dfl"} <= rows[0].keys()
    assert all(float(row["distill_cosine"]) > 0 for row in rows)
    assert float(rows[-1]["distill_weight"]) != 1


def test_a_checkpoint_tells_its_teacher(whole: fit.Run, backbone: Path) -> None:
    last = store.read_metadata(whole.best).provenance[-1]
    assert last["role"] == "teacher"
    assert (last["file"], last["licence"], last["sha256"]) == (backbone.name, "CC0-1.0", sha256(backbone))


def test_stopped_and_resumed_equals_uninterrupted(
    data: Path, whole: fit.Run, beside: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = fit.Trainer._step

    def stopping(self: fit.Trainer, batch: Batch) -> None:
        step(self, batch)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fit.Trainer, "_step", stopping)
    with pytest.raises(fit.Interrupted):
        fit.train(data, settings(beside), out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    fit.resume(tmp_path / "run", quiet=True)
    one, other = (run_state.load(folder) for folder in (whole.folder, tmp_path / "run"))
    for key in ("model", "companions"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_micro_batches_are_the_whole_batch(
    data: Path, beside: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(data, settings(beside, precision="fp32"), tmp_path)
    # In float64: how far float32 sums in another order come apart depends on the CPU's kernels (3e-5 on one of them).
    for part in (run.model, run.criterion, run.companions):
        part.double()
    normalise = run.model.normalise
    monkeypatch.setattr(run.model, "normalise", lambda pictures: normalise(pictures).double())
    batch = next(iter(run.loader.epoch(0, "plain")))
    start = {name: value.clone() for name, value in run.companions.state_dict().items()}
    found = []
    for run.parts in (1, 3):
        run.companions.load_state_dict(start)
        run.optimizer.zero_grad(set_to_none=True)
        for number in (0, 1):  # the second one's gradient follows from what the first one left
            run.gradients(batch, number)
        found.append((torch.cat([one.grad.flatten() for one in run.learned]), run.companions.state_dict()))
        found[-1] = (found[-1][0], {name: value.clone() for name, value in found[-1][1].items()})
    (one, kept), (other, kept_too) = found
    assert (one - other).norm() < 1e-6 * one.norm()
    torch.testing.assert_close(kept, kept_too, rtol=1e-5, atol=1e-6)
    for name in ("dense_auxiliary.scores", "teacher.strength"):
        assert not torch.equal(kept[f"parts.{name}"], start[f"parts.{name}"])


def test_bf16_and_batches_without_objects(data: Path, beside: dict[str, object], tmp_path: Path) -> None:
    run = trainer(data, settings(beside, precision="bf16"), tmp_path)
    batch = next(iter(run.loader.epoch(0, "plain")))
    batch.targets.labels[:] = [labels[:0] for labels in batch.targets.labels]
    batch.targets.boxes[:] = [boxes[:0] for boxes in batch.targets.boxes]
    run.gradients(batch, 0)
    assert all(torch.isfinite(one.grad).all() for one in run.learned if one.grad is not None)
    assert run.companions.state_dict()["parts.dense_auxiliary.scores"] == 1


def test_a_dense_head_has_no_dense_head_beside_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"loss\.dense_auxiliary .*is for heads with queries|head=yolov8 is dense"
    ):
        trainer(data, settings(DENSE, model="yolov8_hgnetv2_b0"), tmp_path)


def test_a_teacher_that_changed_is_refused_when_a_run_goes_on(
    whole: fit.Run, backbone: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "run")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    other = tmp_path / "other.safetensors"
    metadata = replace(store.read_metadata(backbone), licence="unknown")
    store.save(other, load_file(backbone), metadata)
    (folder / "config.yaml").write_text(text.replace(str(backbone), str(other)), encoding="utf-8")
    with pytest.raises(run_state.StateError, match="are not those that taught"):
        fit.resume(folder, quiet=True)


def test_a_detector_teaches_a_smaller_one_its_answers(data: Path, tmp_path: Path) -> None:
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    classes = Classes(tuple(reversed(dataset.classes.names)), tuple(reversed(dataset.classes.ids)))
    file = tmp_path / "teacher.safetensors"
    starting = blank(settings({}, model="flexdetr_nano"), classes)
    store.save(file, starting.model.state_dict(), starting.metadata)
    run = trainer(data, settings({"distill": str(file)}), tmp_path)
    run.gradients(next(iter(run.loader.epoch(0, "plain"))), 0)
    assert {"distill_class", "distill_l1", "distill_box"} <= run.losses[0].terms.keys()
    assert all(float(value) >= 0 for name, value in run.losses[0].terms.items() if name.startswith("distill"))


def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    dataset = fit.read(data, val_fraction=0.15, seed=0)
    file = tmp_path / "teacher.safetensors"
    small = settings({})
    for config, classes, reason in (
        (small.model_copy(update={"image_size": (96, 96)}), dataset.classes, "--image-size 96x96"),
        (small, Classes(("tree",), (0,)), "does not know .*it has also tree"),
    ):
        starting = blank(config, classes)
        store.save(file, starting.model.state_dict(), starting.metadata)
        with pytest.raises(ConfigError, match=reason):
            trainer(data, settings({"distill": str(file)}), tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean .*hgnetv2_b0"):
        trainer(data, settings({"distill": "hgnetv2_b00"}), tmp_path)
