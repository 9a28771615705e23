"""Trackers: what they hold is read back from their own files; one that fails never ends a run."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging

import pytest
import torch

from fakes.tiny import SMALL
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit, trackers
from flexdetr.engine import state as run_state
from flexdetr.engine.trackers import Trackers, flattened, open_trackers
from flexdetr.presets import resolve


def settings(log=(), **train):
    train = {"epochs": 2, "batch_size": 2, "eval_every": 2, "report": False, **train}
    return resolve("flexdetr_pico", **SMALL, image_size=64, log=log, data={"workers": 0}, train=train)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("trackers"), train=4, val=2, test=0, size=(96, 96))


def needs(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def rows(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def curve(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


@needs("tensorboard")
def test_tensorboard_holds_the_rows_and_changes_nothing(data, tmp_path):
    run = fit.train(data, settings("tensorboard"), out=tmp_path / "run", quiet=True)
    for row in rows(run.folder):
        for name in ("loss", "lr", "varifocal"):
            assert curve(run.folder, name)[int(row["epoch"])] == pytest.approx(row[name], rel=1e-4)
    assert curve(run.folder, "final/epoch") == {0: 2.0}
    plain = fit.train(data, settings(), out=tmp_path / "plain", quiet=True)
    one, two = run_state.load(run.folder), run_state.load(plain.folder)
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert one["random"][0]["python"] == two["random"][0]["python"]
    assert "log:\n- tensorboard" in (run.folder / "config.yaml").read_text(encoding="utf-8")


def story(tmp_path, log):
    """A run of three rows: interrupted after the second, resumed after the first."""
    config = settings(log)
    folder = tmp_path / "run"
    folder.mkdir()
    starting = open_trackers(config, folder, epochs=0)
    starting.write({"epoch": 1, "loss": 3.0, "ap": float("nan")})
    starting.write({"epoch": 2, "loss": 2.0})
    starting.end("stopped")
    (folder / run_state.FILE).touch()  # now it is a run that can be resumed
    with open_trackers(config, folder, epochs=1) as resumed:
        resumed.write({"epoch": 2, "loss": 1.5})
        resumed.write({"epoch": 3, "loss": 1.0, "ap": 0.5})
        resumed.finish({"ap": 0.5, "ap_small": float("nan")})
    return folder, json.loads((folder / trackers.FILE).read_text(encoding="utf-8"))


@needs("tensorboard")
def test_a_resumed_run_goes_on_in_the_same_tensorboard_folder(tmp_path):
    folder, _ = story(tmp_path, "tensorboard")
    assert curve(folder, "loss") == {1: 3.0, 2: 1.5, 3: 1.0}
    assert curve(folder, "ap") == {3: 0.5}
    assert curve(folder, "final/ap") == {0: 0.5}


@pytest.mark.slow
@needs("mlflow", "sqlalchemy", "alembic")
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    _, places = story(tmp_path, "mlflow")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=places["mlflow"]["uri"])
    experiment = client.get_experiment_by_name("flexdetr")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == places["mlflow"]["run"]
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "2"
    assert run.data.params["model"] == "flexdetr_pico"
    assert run.data.metrics["final.ap"] == 0.5
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {one.step: one.value for one in sorted(history, key=lambda one: one.timestamp)} == {
        1: 3.0,
        2: 1.5,
        3: 1.0,
    }


@needs("wandb")
def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    _, places = story(tmp_path, "wandb")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert all(file.stem == f"run-{places['wandb']['id']}" for file in files)


def test_a_missing_library_is_named_with_its_extra_before_anything_is_written(data, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    with pytest.raises(ConfigError, match=r"log=wandb needs wandb: .*pip install 'flexdetr\[wandb\]'"):
        fit.train(data, settings("wandb"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_unknown_log_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"log: unknown log 'tensorbord'; did you mean 'tensorboard'\?"):
        settings("mlflow,tensorbord")
    assert settings("mlflow, tensorboard,mlflow").log == ("mlflow", "tensorboard")
    assert settings(None).log == settings([]).log == ()


class Fragile:
    """A tracker whose server goes away."""

    place: dict[str, str]

    def __init__(self, told):
        self.place, self.told = {}, told

    def write(self, row):
        self.told.append(row)
        if len(self.told) == 2:
            raise ConnectionError("the server\nis gone")

    def close(self, final, *, ended):
        self.told.append((final, ended))


def test_a_tracker_that_fails_is_reported_once_and_closed(caplog):
    broken, sound = [], []
    with caplog.at_level(logging.WARNING), Trackers({"a": Fragile(broken), "b": Fragile(sound)}) as both:
        sound.append("so that it does not fail")
        sound.append("either")
        for epoch in (1, 2, 3):
            both.write({"epoch": epoch, "ap": float("nan")})
        both.finish({"ap": 0.25})
    assert broken == [{"epoch": 1}, {"epoch": 2}]
    assert sound[2:] == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}, ({"ap": 0.25}, "done")]
    assert [record.getMessage() for record in caplog.records] == [
        "log=a has failed and is closed; the training goes on, and metrics.csv has every number: "
        "ConnectionError: the server is gone"
    ]


def test_one_that_cannot_be_opened_stops_the_run_before_it_begins(data, tmp_path, monkeypatch):
    def refuse(_tracker, _story):
        raise PermissionError("no key")

    monkeypatch.setattr(trackers.WandB, "__init__", refuse)
    monkeypatch.setattr(trackers, "check_installed", lambda _names: None)
    monkeypatch.setattr("flexdetr.engine.trainer.check_installed", lambda _names: None)
    with pytest.raises(ConfigError, match="log=wandb cannot be opened: PermissionError: no key"):
        fit.train(data, settings("wandb"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / run_state.FILE).exists()


def test_nested_settings_become_dotted_keys():
    assert flattened({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}
