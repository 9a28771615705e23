"""Runs where processes are spawned, as on macOS and Windows."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import fit
from flexdetr.engine import state as run_state

PROGRAM = Path(__file__).with_name("spawned.py")
PATIENCE = 900  # seconds until a process counts as stuck; a busy machine is slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("spawn"), train=8, val=4, test=0, size=(96, 96))


def spawned(*arguments):
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_spawned_workers_train_what_none_do(data, tmp_path):
    done = spawned(data, tmp_path / "run", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    spec = importlib.util.spec_from_file_location("spawned", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit.train(data, program.settings(0), out=tmp_path / "alone", quiet=True)
    finally:
        torch.set_num_threads(threads)
    two, none = (run_state.load(tmp_path / name) for name in ("run", "alone"))
    assert two["sums"] == none["sums"]
    for name, value in none["model"].items():
        assert torch.equal(two["model"][name], value), name


@pytest.mark.slow
def test_two_ranks_with_spawned_workers_train(data, tmp_path):
    done = spawned(data, tmp_path / "run", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    state = run_state.load(tmp_path / "run")
    assert (state["epoch"], len(state["random"])) == (2, 2)
    assert (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.slow
def test_a_script_that_trains_while_it_is_imported_is_told_so(data, tmp_path):
    done = spawned(data, tmp_path / "run", 1, "unguarded")
    assert done.returncode != 0
    assert 'put what it does under if __name__ == "__main__":' in done.stderr  # the worker's last word
    assert "LoaderError" in done.stderr.splitlines()[-1]


def test_an_importing_worker_refuses_to_train(data, tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ConfigError, match="__main__"):
        fit.resume(tmp_path)
