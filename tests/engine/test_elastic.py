"""A run that torchrun begins again goes on from its last state, and ends where an undisturbed one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import elastic, fit
from flexdetr.engine import state as run_state
from flexdetr.presets import resolve

SCRIPT = Path(__file__).with_name("killed_once.py")
PATIENCE = 900


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("elastic"), train=8, val=2, test=0, size=(96, 96))


def settings(**train):
    train = {"epochs": 3, "batch_size": 4, "eval_every": 3, **train}
    return resolve("flexdetr_pico", image_size=64, weights="none", data={"workers": 0}, train=train)


def restarted(count, run="a launch"):
    return {"TORCHELASTIC_RUN_ID": run, "TORCHELASTIC_RESTART_COUNT": str(count)}


def test_a_state_is_known_by_launch_data_and_configuration(tmp_path):
    mark = elastic.launch_mark("data", settings(), restarted(1))
    assert elastic.launch_mark("data", settings(), {}) is None
    others = [
        elastic.launch_mark("data", settings(), restarted(1, "another")),
        elastic.launch_mark("elsewhere", settings(), restarted(1)),
        elastic.launch_mark("data", settings(epochs=4), restarted(1)),
    ]
    assert mark not in others
    assert not elastic.goes_on(tmp_path, mark, restarted(1))  # killed before there was a state
    run_state.save(tmp_path, {"launched": mark})
    assert elastic.goes_on(tmp_path, mark, restarted(1))
    assert not elastic.goes_on(tmp_path, mark, restarted(0))
    assert not any(elastic.goes_on(tmp_path, other, restarted(1)) for other in others)


def test_another_runs_folder_is_refused_however_often_it_is_begun_again(tmp_path, monkeypatch):
    run_state.save(tmp_path, {"launched": None})
    for name, value in restarted(2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="holds a run already"):
        fit.train("data", settings(), out=tmp_path, quiet=True)


def run_of_two(data, out, how):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command += ["--nproc-per-node", "2", "--max-restarts", "2", str(SCRIPT), how, "train", str(data)]
    command += ["--model", "flexdetr_pico", "--weights", "none", "--image-size", "64", "--epochs", "3"]
    command += ["--batch-size", "4", "--device", "cpu", "--out", str(out)]
    for change in ("train.eval_every=3", "train.precision=fp32", "train.report=false", "data.workers=0"):
        command += ["--set", change]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_a_killed_rank_is_begun_again_and_the_weights_are_the_same(data, tmp_path):
    undisturbed = run_of_two(data, tmp_path / "whole", "live")
    disturbed = run_of_two(data, tmp_path / "killed", "kill")
    assert "resumed at epoch 2, step 0" in disturbed
    assert "resumed" not in undisturbed
    one, other = (run_state.load(tmp_path / name) for name in ("whole", "killed"))
    assert one["epoch"] == other["epoch"] == 3
    for part in ("model", "optimizer"):
        flat, same = (torch.utils._pytree.tree_leaves(state[part]) for state in (one, other))
        assert len(flat) == len(same)
        for a, b in zip(flat, same, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
