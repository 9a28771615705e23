"""One batch overfitted, or not, with what to look at."""

from __future__ import annotations

import json

import pytest

import flexdetr
from flexdetr.cli import main
from flexdetr.data.dataset import DataError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit, overfit
from flexdetr.presets import resolve

MODEL = ("--model", "flexdetr_pico", "--image-size", "64")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("overfit"), train=3, val=1, test=0, size=(96, 96))


@pytest.mark.slow
def test_a_detector_learns_one_batch_by_heart(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(data), *MODEL, "--overfit-one-batch"]) == 0
    answer, said = capsys.readouterr()
    assert "passed: the detector can learn these labels" in answer
    assert "overfitting 3 images" in said
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_learned_fails_with_what_to_look_at(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(overfit, "_STEPS", 4)
    monkeypatch.setattr(overfit, "_BETWEEN", 2)
    assert main(["train", str(data), *MODEL, "--overfit-one-batch", "--set", "train.lr=1e-9"]) == 1
    answer, error = capsys.readouterr()
    assert "3 images with" in answer
    assert "4 steps: loss" in answer
    assert "the loss did not collapse. Look at:" in error
    assert "train.lr=1e-09: too low" in error
    assert "scene_00001.jpg" in error
    assert not [*tmp_path.iterdir()]


def test_a_detector_that_is_given_stays_as_it_was(data, monkeypatch):
    monkeypatch.setattr(overfit, "_STEPS", 2)
    names = json.loads((data / "annotations" / "instances_train.json").read_text())["categories"]
    detector = flexdetr.Detector(
        "flexdetr_pico", classes={row["id"]: row["name"] for row in names}, image_size=64
    )
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    result = detector.overfit_one_batch(data, quiet=True, lr=1e-4, data={"workers": 0})
    assert (result.images, result.steps, result.passed) == (3, 2, False)
    assert all((value == before[name]).all() for name, value in detector.model.state_dict().items())


def test_a_loss_that_is_not_finite_ends_it_at_once(data, monkeypatch):
    config = resolve("flexdetr_pico", image_size=64, train={"clip": 0.0}, data={"workers": 0})
    # A rate that no configuration accepts, so that the loss is sure to leave the range of floats.
    config = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1e30})})
    monkeypatch.setattr(overfit, "_STEPS", 30)
    monkeypatch.setattr(overfit, "_BETWEEN", 100)
    result = fit.overfit_one_batch(data, config, quiet=True)
    assert result.steps < 30
    assert not result.passed
    assert "not finite" in result.hints[0]


def test_data_without_objects_is_refused(tmp_path):
    root = draw_scenes(tmp_path / "data", train=3, val=1, test=0, size=(96, 96))
    file = root / "annotations" / "instances_train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    config = resolve("flexdetr_pico", image_size=64, data={"workers": 0})
    with pytest.raises(DataError, match="nothing to overfit"):
        fit.overfit_one_batch(root, config, quiet=True)


def test_it_cannot_be_asked_of_a_run_that_is_resumed(tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path), "--overfit-one-batch"]) == 2
    assert "takes no other option" in capsys.readouterr().err
