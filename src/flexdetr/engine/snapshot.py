"""A run as a resumable state, and back: what belongs to an exact continuation, listed once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexdetr.data.dataset import DataError, fingerprint
from flexdetr.engine import state as run_state
from flexdetr.weights.store import current_names

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

_log = logging.getLogger(__name__)

_HOST_SUMS = ("loss", "steps", "seconds")  # all others are terms of the loss, added up on the device
_LONGEST = 300  # letters of a reason: torch's lists every tensor


def snapshot(run: Trainer) -> dict[str, Any]:
    """Everything that the run needs to go on exactly from here; all ranks must ask for it together."""
    return {
        "data": str(run.dataset.root.resolve()),
        "classes": run.classes.to_json(),
        "metadata": run.starting.metadata.to_json(),
        "trained": run.starting.trained.to_json(),
        "fingerprint": fingerprint(run.train_records),
        "model": run.model.state_dict(),
        "criterion": run.criterion.state_dict(),
        "companions": run.companions.state_dict(),
        "teacher": _teacher(run),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "random": run.ranks.gathered(run_state.random_state()),
        "epoch": run.epoch,
        "batch": run.batch_index,
        "seconds": run.seconds,
        "best": (run.best_score, run.best_epoch),
        "sums": run.ranks.gathered({**run.sums, **run.terms.read()}),
        "parts": run.parts,
        "rolled_back": run.rolled_back,
        "launched": run.launched,
    }


def restore(run: Trainer, state: Mapping[str, Any]) -> None:
    """Put a run where ``snapshot`` found it.

    Raises:
        DataError: if the training images or their boxes have changed since.
        StateError: if something is missing in the state, or has another form or shape than in the run.
    """
    with reading(run.folder):
        _restore(run, state)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside, a state is used that anything may have happened to.

    Raises:
        StateError: in place of what Python and torch say of a value that is missing or has another form.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if type(error).__module__ != "builtins":  # one of ours, which is a sentence already
            raise
        reason = " ".join(str(error).split())[:_LONGEST]
        reason = f"it lacks {reason}" if isinstance(error, LookupError) else reason
        raise run_state.StateError(
            f"{folder / run_state.FILE} is not a complete state of the run in {folder}: {reason}. Remove it and "
            f"--resume looks for {run_state.FORMER}; or start a new run with --weights {folder / 'last.safetensors'}"
        ) from error


def _restore(run: Trainer, state: Mapping[str, Any]) -> None:
    if state["fingerprint"] != fingerprint(run.train_records):
        raise DataError(
            f"{run.dataset.root} has changed since {run.folder} began, so the run cannot go on exactly; put the "
            "data back, or start a new run with --weights and the folder's last.safetensors"
        )
    if state.get("teacher") != _teacher(run):
        raise run_state.StateError(
            f"the weights of distill.teacher={run.config.distill.teacher} are not those that taught {run.folder} so "
            f"far (sha256 {state.get('teacher')}): put them back, or start a new run with --weights "
            f"{run.folder / 'last.safetensors'}"
        )
    run.parts, run.rolled_back = int(state["parts"]), bool(state["rolled_back"])
    run.launched = state.get("launched")
    if run.rolled_back:
        run.use_full_precision()
    run.model.load_state_dict(current_names(state["model"]))
    run.criterion.load_state_dict(state["criterion"])
    run.companions.load_state_dict(state.get("companions", {}))  # runs of earlier versions had none
    run.ema.load_state_dict({**state["ema"], "model": current_names(state["ema"]["model"])})
    run.optimizer.load_state_dict(state["optimizer"])
    _check_moments(run)
    run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.batch_index, run.seconds = (
        int(state["epoch"]),
        int(state["batch"]),
        float(state["seconds"]),
    )
    best_score, best_epoch = state["best"]
    run.best_score, run.best_epoch = float(best_score), int(best_epoch)
    saved, sums = state["random"], state["sums"]
    # Where fewer processes go on, each takes up the shares of those that are gone.
    own: dict[str, float] = {}
    for share in sums[run.ranks.rank :: run.ranks.size]:
        own |= {
            name: own.get(name, 0.0) + value
            for name, value in share.items()
            if name not in ("steps", "seconds")
        }
        own |= {name: share[name] for name in ("steps", "seconds") if name in share}
    run.sums = defaultdict(float, {name: own[name] for name in _HOST_SUMS if name in own})
    run.terms.load({name: value for name, value in own.items() if name not in _HOST_SUMS})
    if run.ranks.rank < len(saved):
        run_state.restore_random_state(saved[run.ranks.rank])
    if run.ranks.size != len(saved):
        _log.warning(
            "%d processes saved this state and %d go on: in the same way, but no longer bit for bit",
            len(saved),
            run.ranks.size,
        )


def _teacher(run: Trainer) -> str | None:
    """The sha256 of the teacher's weights."""
    return None if run.teacher is None else run.teacher.origin.get("sha256")


def _check_moments(run: Trainer) -> None:
    """Torch's optimisers take up moments of any shape, and would fail at the first step."""
    for parameter, own in run.optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if own[name].shape != parameter.shape:
                raise ValueError(
                    f"the optimiser's {name} has shape {list(own[name].shape)}, its parameter {list(parameter.shape)}"
                )
        if own["step"].ndim:
            raise ValueError(f"the optimiser's step has shape {list(own['step'].shape)}")
