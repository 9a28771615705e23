"""Two processes train as one does, and whatever kills them, the run goes on exactly."""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from fakes.tiny import SMALL_WORDS
from flexdetr.cli import main
from flexdetr.config import ConfigError
from flexdetr.data.scenes import draw_scenes
from flexdetr.engine import distributed, fit, launch
from flexdetr.engine import state as run_state
from flexdetr.engine.distributed import (
    Ranks,
    device_index,
    device_indices,
    join,
    own_device,
    wanted_processes,
)
from flexdetr.presets import resolve

HERE = Path(__file__).parent
PATIENCE = 900  # seconds until a process counts as stuck; a busy machine is slow


def settings(**train):
    return resolve("flexdetr_pico", image_size=64, data={"workers": 0}, train=train)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_scenes(tmp_path_factory.mktemp("ranks"), train=8, val=7, test=0, size=(96, 96))


@pytest.fixture(scope="module")
def answers(data, tmp_path_factory):
    """What one process computes, and what the first of two does."""
    sys.path.insert(0, str(HERE))
    try:
        import two_ranks
    finally:
        sys.path.remove(str(HERE))
    file = tmp_path_factory.mktemp("answers") / "two.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command += ["--nproc-per-node", "2", str(HERE / "two_ranks.py"), str(data), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return two_ranks.answer(data, None), torch.load(file)


@pytest.mark.parametrize(
    ("norms", "tolerance"), [("frozen", 1e-6), ("synchronised", 1e-9), ("dense", 1e-9), ("companions", 1e-9)]
)
def test_two_ranks_have_the_gradient_of_the_whole_batch(answers, norms, tolerance):
    """Denoising included, and where the second rank has no objects; only the order of additions differs.

    The dense detector divides by what the predictions of both ranks say.
    """
    one, two = (answer["gradients"][norms] for answer in answers)
    assert one.keys() == two.keys()
    difference = sum(float((one[name] - two[name]).double().square().sum()) for name in one)
    whole = sum(float(gradient.double().square().sum()) for gradient in one.values())
    assert math.sqrt(difference / whole) < tolerance


def test_what_trains_beside_a_detector_keeps_what_both_ranks_saw(answers):
    one, two = (answer["beside"] for answer in answers)
    torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)
    assert one["parts.dense_auxiliary.scores"] != 1
    assert one["parts.teacher.strength"] != 1


def test_norms_remember_what_both_ranks_saw(answers):
    one, two = answers
    for name, value in one["buffers"].items():
        torch.testing.assert_close(two["buffers"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_norms_that_are_not_synchronised_still_have_common_running_statistics(answers):
    """What a rank evaluates is what the first one saves, and what all of them resume with."""
    (alone,), (first, second) = (answer["statistics"] for answer in answers)
    assert torch.equal(first, second)
    assert not torch.equal(first, alone), "each rank normalised by its own images"


def test_a_sharded_evaluation_gives_the_same_numbers(answers):
    one, two = answers
    assert two["batches"] < one["batches"]
    assert two["numbers"] == pytest.approx(one["numbers"], abs=1e-9, nan_ok=True)
    assert two["table"] == [[0, 7], [1, 7]]


def words(data, out):
    return [
        *("train", str(data), "--model", "flexdetr_pico", "--image-size", "64", "--epochs", "2"),
        *SMALL_WORDS,
        *("--batch-size", "4", "--device", "cpu", "--out", str(out), "--set", "data.workers=0"),
        *("--set", "train.processes=2", "--set", "train.eval_every=2"),
        *("--set", "train.precision=fp32", "--set", "train.report=false"),
    ]


def command_line(data, out):
    return [sys.executable, "-m", "flexdetr", *words(data, out)]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with redirect_stdout(io.StringIO()) as said:
        assert main(words(data, out)) == 0
    assert "best checkpoint" in said.getvalue()
    return out


@pytest.mark.slow
def test_an_outer_torchrun_trains_in_its_processes_and_only_the_first_one_speaks(data, tmp_path):
    command = command_line(data, tmp_path / "run")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command[1:2] = [*torchrun, "--nproc-per-node", "2", "-m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best checkpoint") == 1
    assert done.stderr.count("training samples as the network will see them") == 1
    state = run_state.load(tmp_path / "run")
    assert (state["epoch"], len(state["random"])) == (2, 2)
    assert (tmp_path / "run" / "best.safetensors").exists()


SHORT_OF_MEMORY = """
import os
if os.environ.get("RANK") == "1":
    import torch
    from flexdetr.engine import trainer
    real = trainer.Trainer._losses
    def losses(self, batch, step):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("no memory left, says a test")
        return real(self, batch, step)
    trainer.Trainer._losses = losses
"""


@pytest.mark.slow
def test_where_one_rank_runs_out_of_memory_all_go_on_in_smaller_parts(data, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY, encoding="utf-8")
    done = subprocess.run(
        command_line(data, tmp_path / "run"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train.accumulate=2; going on so from the last state" in done.stderr
    state = run_state.load(tmp_path / "run")
    assert (state["parts"], state["epoch"], len(state["random"])) == (2, 2, 2)


def assert_same_state(one, other):
    first, second = run_state.load(one), run_state.load(other)
    assert len(first["random"]) == 2
    for key in ("model", "ema", "optimizer", "criterion", "random", "epoch", "batch", "best"):
        assert _same(first[key], second[key]), key


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


def kill_all(process):
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param(kill_all, -signal.SIGKILL, id="kill -9"),
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), 130, id="SIGTERM"),
        pytest.param(lambda process: process.send_signal(signal.SIGINT), 130, id="Ctrl-C"),
    ],
)
def test_two_processes_interrupted_and_resumed_equal_two_uninterrupted(
    data, uninterrupted, tmp_path, how, status
):
    out = tmp_path / "run"
    process = subprocess.Popen(command_line(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + PATIENCE
    while not (out / run_state.FILE).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    how(process)
    assert process.wait(PATIENCE) == status
    assert run_state.load(out)["epoch"] < 2
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_state(uninterrupted, out)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(data, uninterrupted, tmp_path, caplog):
    """Fewer GPUs are left: the step keeps its batch, whatever the number of processes."""
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    config = (out / "config.yaml").read_text(encoding="utf-8")
    assert "processes: 2" in config
    (out / "config.yaml").write_text(config.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        fit.resume(out, device="cpu", quiet=True)
    assert "2 processes saved this state and 1 go on" in caplog.text
    state = run_state.load(out)
    assert (state["epoch"], len(state["random"])) == (3, 1)
    assert "processes: null" in (out / "config.yaml").read_text(encoding="utf-8")


def test_several_processes_on_a_mac_are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="mps trains in one process, and 2"):
        launch.train(
            data, settings(device="mps", processes=2), out=tmp_path / "run", starting=None, quiet=True
        )


def test_several_gpus_are_named_in_one_option():
    assert device_indices("cuda:0,1") == [0, 1]
    assert device_indices("cuda:2,cuda:5") == [2, 5]
    assert device_indices("cuda") == device_indices("cpu") == []
    assert device_index("cuda:2,5", 1) == 5
    assert own_device("cuda:2,5", Ranks(1, 2, 1, 2)) == "cuda:5"
    assert own_device("cpu", Ranks(1, 2, 1, 2)) == "cpu"
    assert wanted_processes(settings(device="cuda:0,1")) == 2
    assert wanted_processes(settings(processes=3)) == 3
    assert wanted_processes(settings()) == 1
    with pytest.raises(ConfigError, match="names a GPU twice"):
        device_indices("cuda:1,1")
    with pytest.raises(ConfigError, match="like cuda:0,1"):
        device_indices("cuda:a,b")
    with pytest.raises(ConfigError, match="one of the two"):
        wanted_processes(settings(device="cuda:0,1", processes=3))


def test_ranks_that_wait_for_the_first_one_tell_their_watchdogs(monkeypatch):
    """A report may take longer than a watchdog waits: who only waits for it is not hung."""
    left, beats = [3], []

    def is_completed():
        left[0] -= 1
        return left[0] < 0

    work = SimpleNamespace(is_completed=is_completed, wait=lambda: beats.append("waited"))
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda _tensor, **_options: work)
    monkeypatch.setattr(distributed, "_BEAT", 0.0)
    Ranks(1, 2).wait(lambda: beats.append("beat"))
    assert beats == ["beat", "beat", "beat", "waited"]
    Ranks().wait(lambda: pytest.fail("one process waits for nobody"))


def test_buffers_are_averaged_in_one_message(monkeypatch):
    sent = []

    def all_reduce(flat):
        sent.append(len(flat))
        flat *= 3  # the other rank has twice as much

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    tensors = [torch.ones(2, 3), torch.full((4,), 2.0), torch.tensor(5.0)]
    Ranks(0, 2).average(tensors)
    assert sent == [11]
    assert [one.flatten()[0].item() for one in tensors] == [1.5, 3.0, 7.5]


def test_a_lone_process_says_how_to_start_several():
    with pytest.raises(ConfigError, match="torchrun"):
        join(settings(processes=2))


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the GPUs that the test asks for")
def test_gpus_that_are_not_here_are_refused_before_anything_is_started(data, tmp_path):
    with pytest.raises(ConfigError, match="needs GPU"):
        launch.train(data, settings(device="cuda:0,1"), out=tmp_path / "run", starting=None, quiet=True)
    assert not (tmp_path / "run").exists()
