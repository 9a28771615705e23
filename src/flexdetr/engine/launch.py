"""Starts the processes of a run that has several on this machine, and brings back what came of it.

They are started anew, never forked, and asked to stop through a file: so it goes on every platform. Over several
machines torchrun starts them instead.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from flexdetr.config import Config, ConfigError
from flexdetr.engine import state as run_state
from flexdetr.engine.distributed import device_indices, wanted_processes
from flexdetr.engine.sentinels import MemoryExhaustedError
from flexdetr.engine.stop import Interrupted, handling
from flexdetr.foreign_code import allowed, named
from flexdetr.model.backbones.wrapped import PROBE_SIZE
from flexdetr.runtime.cpu import cores
from flexdetr.tasks import task as task_of
from flexdetr.weights import store

if TYPE_CHECKING:
    from flexdetr.engine.checkpoint import StartingDetector
    from flexdetr.engine.trainer import Run

_log = logging.getLogger(__name__)

LAUNCHER = "FLEXDETR_LAUNCHER"  # the process that waits for the ranks; they stop when it is gone
MEETING, STOP = "meeting", "stop"  # files through which ranks find each other, and hear that they are to stop
_POLL = 0.2
_GRACE = 10.0  # seconds: a rank whose neighbour is gone soon fails itself


class WorkerError(RuntimeError):
    """Processes that trained together ended without an answer."""


def train(
    data: str | Path, config: Config, *, out: Path, starting: StartingDetector | None, quiet: bool
) -> Run:
    """``fit.train`` in as many processes as the configuration asks for.

    Raises:
        WorkerError: if a process ended without saying why.
        Exception: what a process raised, as ``fit.train`` does.
    """
    with tempfile.TemporaryDirectory(prefix="flexdetr-") as place:
        task: dict[str, Any] = {
            "data": str(data),
            "config": config.model_dump(mode="json"),
            "out": str(out),
            "quiet": quiet,
        }
        if starting is not None:
            _check_remade(starting, wanted_processes(config))
            weights = Path(place) / "starting.safetensors"
            store.save(
                weights,
                starting.model.state_dict(),
                replace(starting.metadata, config=starting.config.model_dump(mode="json")),
            )
            task["starting"] = {
                "file": str(weights),
                "trained": starting.trained.to_json(),
                "notes": starting.notes,
            }
        return _run(task, config, Path(place), out)


def _check_remade(starting: StartingDetector, count: int) -> None:
    """Refuse a backbone that the processes cannot make again: they have its name, and not the object."""
    from flexdetr.engine.checkpoint import blank

    part = starting.config.backbone
    if ":" not in part.name:
        return
    if part.name.startswith("__main__:"):
        reason = "it is defined in the script that runs, which they do not import"
    else:
        try:
            again = blank(starting.config, starting.classes).model.backbone
        except Exception as error:  # whatever the user's code raises
            reason = f"that fails here already: {type(error).__name__}: {error}"
        else:
            if _same(starting.model.backbone, again):
                return
            reason = f"with backbone.options {part.options} its class makes another network than the one that was given"
    raise ConfigError(
        f"each of {count} processes has to build the backbone {part.name} itself, and {reason}. Name a function that "
        "makes it, backbone='my_pkg.my_mod:factory', with backbone.options; or train in one process"
    )


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks compute the same when they have the same weights; ``other`` is changed."""
    state = one.state_dict()
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != shapes:
        return False
    other.load_state_dict(state)
    device = next(one.parameters(), torch.zeros(())).device
    image = torch.rand(1, 3, *PROBE_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    modes = [(part, part.training) for part in one.modules()]
    with torch.no_grad(), run_state.random_state_kept():
        answers = [network.to(device).eval()(image) for network in (one, other)]
    for part, training in modes:
        part.training = training
    return all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def resume(
    folder: Path,
    config: Config,
    *,
    data: str | Path | None = None,
    quiet: bool,
    device: str | None = None,
) -> Run:
    """``fit.resume`` in as many processes as the configuration asks for; raises as ``train`` does."""
    moved = None if data is None else str(data)
    with tempfile.TemporaryDirectory(prefix="flexdetr-") as place:
        task = {"resume": str(folder), "data": moved, "device": device, "quiet": quiet}
        return _run(task, config, Path(place), folder)


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
            kept = {key: task.get(key) for key in ("data", "device", "quiet")}
            task = {"resume": str(out), **kept, "parts": 2 * error.parts}


def _start(task: dict[str, Any], config: Config, place: Path, out: Path) -> Run:
    count = wanted_processes(config)
    _check_devices(config, count)
    for former in [*place.glob("answer-*.json"), place / MEETING, place / STOP]:
        former.unlink(missing_ok=True)
    # How the program begins processes is how its ranks begin theirs.
    task = {**task, "start_method": multiprocessing.get_start_method(allow_none=True)}
    (place / "task.json").write_text(json.dumps(task), encoding="utf-8")
    # Whoever started this has allowed the code that it names.
    with allowed(named(config.model_dump()).values()), ExitStack() as stack:
        ranks = [_start_rank(rank, count, place, stack) for rank in range(count)]
        with _forwarding(place):
            _wait(ranks)
    return _answer(place, out, [rank.returncode for rank in ranks], config.task)


def _start_rank(rank: int, count: int, place: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """One process, with what torchrun would have told it; only the first one speaks to the terminal."""
    environment = {
        "OMP_NUM_THREADS": str(max(1, cores() // count)),
        **os.environ,
        LAUNCHER: str(os.getpid()),
        # Modules are found where they are here.
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path or str(Path.cwd()) for path in sys.path)),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    said = None
    if rank:
        said = stack.enter_context(_words(place, rank).open("w", encoding="utf-8"))
    # Ctrl-C in a terminal goes to all processes of a group: they must hear of it from here alone.
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "flexdetr.engine.worker", str(place)], env=environment, stderr=said, **apart
    )
    stack.callback(_end, process)
    return process


def _words(place: Path, rank: int) -> Path:
    return place / f"said-{rank}.txt"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended; where one fails, the others, which wait for it, get some seconds to say what they know."""
    limit = math.inf
    while any(rank.poll() is None for rank in ranks):
        if math.isinf(limit) and any(rank.poll() for rank in ranks):
            limit = time.monotonic() + _GRACE
        if time.monotonic() > limit:
            return
        time.sleep(_POLL)


def _check_devices(config: Config, count: int) -> None:
    """Refuse what the workers would refuse one by one."""
    device = config.train.device
    if device == "mps" and count > 1:
        raise ConfigError(
            f"train.device=mps trains in one process, and {count} are asked for: use --device cpu, or "
            "train.processes=1"
        )
    if device in ("cpu", "mps") or (device == "auto" and not torch.cuda.is_available()):
        return
    here = torch.cuda.device_count()
    missing = [index for index in device_indices(device) or range(count) if index >= here]
    if missing:
        raise ConfigError(
            f"train.device={device} with {count} processes needs GPU {missing[0]}, and this machine has {here}; use "
            "--device cpu, or fewer, like --device cuda:0: a run is resumed on them as well"
        )


@contextmanager
def _forwarding(place: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM go on to the ranks, which stop after their step: a letter in a file for each request."""

    def tell(_number: int, _frame: FrameType | None) -> None:
        with (place / STOP).open("ab") as file:
            file.write(b"!")

    with handling(tell):
        yield


def _answer(place: Path, out: Path, statuses: Sequence[int | None], kind: str) -> Run:
    """The finished run, or what went wrong first."""
    from flexdetr.engine.trainer import Run

    answers = sorted(place.glob("answer-*.json"), key=lambda path: path.stat().st_mtime_ns)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in answers]
    for content in contents:
        if "error" in content:
            raise _exception(content)
    done = next((content for content in contents if "seconds" in content), None)
    if done is None:
        said = [line for file in sorted(place.glob("said-*.txt")) for line in _last_lines(file)]
        raise WorkerError(
            f"the training processes ended with status {', '.join(map(str, statuses))} and without an answer; continue "
            f"from the last state with: flexdetr train --resume {out}. The last lines: {' | '.join(said) or 'none'}"
        )
    metrics = task_of(kind).score_of(done["metrics"])
    return Run(Path(done["folder"]), Path(done["best"]), Path(done["last"]), metrics, done["seconds"])


def _last_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]


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
