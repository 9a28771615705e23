"""Starts torchrun for a run of several processes on this machine, and brings back what came of it."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import torch

from flexdetr.config import Config, ConfigError
from flexdetr.engine import state as run_state
from flexdetr.engine.distributed import device_indices, wanted_processes
from flexdetr.engine.sentinels import MemoryExhaustedError
from flexdetr.engine.stop import Interrupted, handling
from flexdetr.metrics.coco_map import Metrics
from flexdetr.weights import store

if TYPE_CHECKING:
    from flexdetr.engine.checkpoint import Start
    from flexdetr.engine.trainer import Run

_log = logging.getLogger(__name__)

LAUNCHER = "FLEXDETR_LAUNCHER"  # the process that waits for the workers; they stop when it is gone


class WorkerError(RuntimeError):
    """Processes that trained together ended without an answer."""


def train(data: str | Path, config: Config, *, out: Path, begun: Start | None, quiet: bool) -> Run:
    """``fit.train`` in as many processes as the configuration asks for.

    Raises:
        WorkerError: where a process ended without saying why.
        Exception: what a process raised, as ``fit.train`` does.
    """
    with tempfile.TemporaryDirectory(prefix="flexdetr-") as place:
        task: dict[str, Any] = {
            "data": str(data),
            "config": config.model_dump(mode="json"),
            "out": str(out),
            "quiet": quiet,
        }
        if begun is not None:
            weights = Path(place) / "begun.safetensors"
            store.save(
                weights, begun.model.state_dict(), replace(begun.metadata, config=_plain(begun.config))
            )
            task["begun"] = {"file": str(weights), "trained": begun.trained.to_json(), "notes": begun.notes}
        return _run(task, config, Path(place), out)


def resume(folder: Path, config: Config, *, quiet: bool) -> Run:
    """``fit.resume`` in as many processes as the run had; raises as ``train`` does."""
    with tempfile.TemporaryDirectory(prefix="flexdetr-") as place:
        return _run({"resume": str(folder), "quiet": quiet}, config, Path(place), folder)


def _plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _run(task: dict[str, Any], config: Config, place: Path, out: Path) -> Run:
    """Work on a task, and go on with smaller micro-batches where they did not fit in memory."""
    while True:
        try:
            return _start(task, config, place, out)
        except MemoryExhaustedError as error:
            share = (
                config.train.batch_size if isinstance(config.train.batch_size, int) else 1
            ) // error.parts
            if share < 2 * wanted_processes(config) or not (out / run_state.FILE).exists():
                raise
            _log.warning("%s; going on so from the last state", error)
            task = {"resume": str(out), "quiet": task["quiet"], "parts": 2 * error.parts}


def _start(task: dict[str, Any], config: Config, place: Path, out: Path) -> Run:
    count = wanted_processes(config)
    _check_devices(config, count)
    for former in place.glob("answer-*.json"):
        former.unlink()
    (place / "task.json").write_text(json.dumps(task), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command += ["--nproc-per-node", str(count), "-m", "flexdetr.engine.worker", str(place)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {
        "OMP_NUM_THREADS": str(max(1, cores // count)),
        **os.environ,
        LAUNCHER: str(os.getpid()),
        "TORCHELASTIC_ERROR_FILE": str(place / "torchrun.json"),
    }
    # What torchrun itself says about an end that a worker has explained would only bury the explanation.
    with (place / "torchrun.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, env=environment, stderr=None if _verbose() else said, start_new_session=True
        )
        with _forwarding(process):
            process.wait()
    return _answer(place, out, process.returncode)


def _verbose() -> bool:
    return _log.isEnabledFor(logging.DEBUG)


def _check_devices(config: Config, count: int) -> None:
    """Refuse what the workers would refuse one by one.

    Raises:
        ConfigError: where there are fewer GPUs than processes.
    """
    device = config.train.device
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return
    here = torch.cuda.device_count()
    missing = [index for index in device_indices(device) or range(count) if index >= here]
    if missing:
        raise ConfigError(
            f"train.device={device} with {count} processes needs GPU {missing[0]}, and this machine has {here}; use "
            "--device cpu, or fewer"
        )


@contextmanager
def _forwarding(torchrun: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the workers, which stop after their step; torchrun then ends by itself."""

    def tell(_number: int, _frame: FrameType | None) -> None:
        for worker in psutil.Process(torchrun.pid).children():
            worker.send_signal(signal.SIGTERM)

    with handling(tell):
        yield


def _answer(place: Path, out: Path, status: int) -> Run:
    """The finished run, or what went wrong first."""
    from flexdetr.engine.trainer import Run

    answers = sorted(place.glob("answer-*.json"), key=lambda path: path.stat().st_mtime_ns)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in answers]
    for content in contents:
        if "error" in content:
            raise _exception(content)
    done = next((content for content in contents if "seconds" in content), None)
    if done is None:
        said = (place / "torchrun.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise WorkerError(
            f"the training processes ended with status {status} and without an answer; continue from the last state "
            f"with: flexdetr train --resume {out}. The last lines: {' | '.join(said[-12:]) or 'none'}"
        )
    metrics = Metrics.from_json(done["metrics"])
    return Run(Path(done["folder"]), Path(done["best"]), Path(done["last"]), metrics, done["seconds"])


def _exception(content: dict[str, str]) -> BaseException:
    """A worker's exception again; only those of this package are made, others are told."""
    module, _, name = content["error"].rpartition(".")
    if name == Interrupted.__name__:
        return Interrupted(content["message"])
    if module.partition(".")[0] == "flexdetr":
        kind = getattr(importlib.import_module(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            if issubclass(kind, MemoryExhaustedError):
                return kind(content["message"], int(content["parts"]))
            return kind(content["message"])
    return WorkerError(f"rank {content['rank']}: {name}: {content['message']}\n{content['traceback']}")
