"""What an epoch comes to: its losses over all ranks, the score of the averaged weights, and their checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexdetr.engine.device import precision_name
from flexdetr.engine.evaluate import evaluate
from flexdetr.model.fuse import fuse
from flexdetr.tasks import headline
from flexdetr.weights import store

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer


def added_up(run: Trainer) -> dict[str, float]:
    """The epoch's loss and its terms, those of all layers together; each rank has a share of them."""
    own = {"loss": run.sums["loss"]}
    for name, value in run.terms.read().items():
        term = name.partition(".")[0]
        own[term] = own.get(term, 0.0) + value
    everyone = run.ranks.gathered(own)
    return {name: sum(share.get(name, 0.0) for share in everyone) for name in own}


def validate(run: Trainer) -> dict[str, float]:
    """Score the averaged weights on the validation split, and keep them where they are the best so far."""
    metrics = evaluate(
        fuse(run.ema.model),
        run.scored_records,
        run.classes,
        run.watchdog.each(run.val_loader, "the averaged weights are evaluated"),
        device=run.device,
        dtype=run.dtype,
        kind=run.config.task,
        ranks=run.ranks,
        beat=lambda: run.watchdog.beat("the first process scores"),
    )
    training = {
        "data": str(run.dataset.root),
        "images": len(run.train_records),
        "epochs": run.config.train.epochs,
        "steps": run.steps,
        "seed": run.config.seed,
        "seconds": round(run.seconds, 1),
        "validation": {"epoch": run.epoch, "precision": precision_name(run.dtype), **metrics.to_json()},
    }
    run.announce(
        f"epoch {run.epoch}: {headline(metrics)} on {run.validation}, computed in {precision_name(run.dtype)}"
    )
    metadata = run.starting.describe(run.config, training)
    weights = run.ema.model.state_dict()
    if run.ranks.first:
        store.save(run.folder / "last.safetensors", weights, metadata)
    if not metrics.pair[0] <= run.best_score:  # also where no object counts and AP is nan
        run.best_score, run.best_epoch = metrics.pair[0], run.epoch
        if run.ranks.first:
            store.save(run.folder / "best.safetensors", weights, metadata)
    run.callbacks.call("on_evaluation", run, metrics=metrics)
    return metrics.row()
