"""A run as a resumable state, and back: what belongs to an exact continuation, listed once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flexdetr.data.dataset import DataError, fingerprint
from flexdetr.engine import state as run_state

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

_log = logging.getLogger(__name__)


def snapshot(run: Trainer) -> dict[str, Any]:
    """Everything that the run needs to go on exactly from here; all ranks must ask for it together."""
    return {
        "data": str(run.dataset.root.resolve()),
        "classes": run.classes.to_json(),
        "metadata": run.begun.metadata.to_json(),
        "trained": run.begun.trained.to_json(),
        "fingerprint": fingerprint(run.train_records),
        "model": run.model.state_dict(),
        "criterion": run.criterion.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "random": run.ranks.gathered(run_state.random_state()),
        "epoch": run.epoch,
        "batch": run.batch_index,
        "seconds": run.seconds,
        "best": (run.best_ap, run.best_epoch),
        "sums": run.ranks.gathered(dict(run.sums)),
        "parts": run.parts,
        "rolled_back": run.rolled_back,
    }


def take_up(run: Trainer, state: Mapping[str, Any]) -> None:
    """Put a run where ``snapshot`` found it.

    Raises:
        DataError: where the training images or their boxes have changed since.
    """
    if state["fingerprint"] != fingerprint(run.train_records):
        raise DataError(
            f"{run.dataset.root} has changed since {run.folder} began, so the run cannot go on exactly; put the "
            "data back, or begin a new run with --weights and the folder's last.safetensors"
        )
    run.parts, run.rolled_back = state["parts"], state["rolled_back"]
    if run.rolled_back:
        run.use_full_precision()
    run.model.load_state_dict(state["model"])
    run.criterion.load_state_dict(state["criterion"])
    run.ema.load_state_dict(state["ema"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.batch_index, run.seconds = state["epoch"], state["batch"], state["seconds"]
    run.best_ap, run.best_epoch = state["best"]
    saved, sums = state["random"], state["sums"]
    run.sums = defaultdict(float, sums[run.ranks.rank] if run.ranks.rank < len(sums) else {})
    if run.ranks.rank < len(saved):
        run_state.restore_random_state(saved[run.ranks.rank])
    if run.ranks.size != len(saved):
        _log.warning(
            "%d processes saved this state and %d go on: in the same way, but no longer bit for bit",
            len(saved),
            run.ranks.size,
        )
