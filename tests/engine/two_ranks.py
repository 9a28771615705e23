"""What one rank does in test_distributed.py: gradients of a step and an evaluation, saved by the first rank."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from fakes.tiny import SMALL
from flexdetr.data.detect import read
from flexdetr.data.loader import Batch
from flexdetr.engine import fit
from flexdetr.engine import state as run_state
from flexdetr.engine.distributed import Ranks, join, leave
from flexdetr.engine.evaluate import evaluate
from flexdetr.engine.norms import moving_statistics
from flexdetr.presets import resolve
from flexdetr.weights import store

BATCH = 4


def settings(model="flexdetr_pico", beside=None, **train):
    train = {"epochs": 2, "batch_size": BATCH, "eval_every": 2, "precision": "fp32", "clip": 0.0, **train}
    sections = {"backbone": SMALL["backbone"], "encoder": SMALL["encoder"]}
    if model == "flexdetr_pico":
        sections["head"] = SMALL["head"]
    return resolve(model, image_size=64, data={"workers": 0}, train=train, **sections, **(beside or {}))


def gradients(trainer: fit.Trainer, batch: Batch, number: int) -> dict[str, torch.Tensor]:
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.gradients(batch, number)
    named = [*trainer.model.named_parameters(), *trainer.companions.named_parameters()]
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def without_objects(batch: Batch, ranks: Ranks) -> Batch:
    """The batch with objects in the first half of the whole step's images only."""
    keep = BATCH // 2 - ranks.rank * (BATCH // 2)
    labels, boxes = list(batch.targets.labels), list(batch.targets.boxes)
    for place in range(keep, len(batch)):
        labels[place], boxes[place] = labels[place][:0], boxes[place][:0]
    return replace(batch, targets=replace(batch.targets, labels=labels, boxes=boxes))


def dense_gradients(dataset, folder, batch, processes, ranks):
    """Of a detector whose losses are divided by what both ranks' predictions say."""
    config = settings("yolov8_hgnetv2_b0", processes=processes)
    trainer = precise_trainer(dataset, folder, config, ranks)
    return gradients(trainer, without_objects(batch, ranks), 0)


def companions(dataset, folder, batch, processes, ranks):
    """Of a second step with what trains beside a detector, and what the steps leave in it."""
    file = folder / "backbone.safetensors"
    if ranks.first:
        starting = fit.start(settings(), dataset.classes)
        weights = {
            name: value for name, value in starting.model.state_dict().items() if name.startswith("backbone.")
        }
        store.save(file, weights, replace(starting.metadata, part="backbone", classes=[]))
    ranks.wait()
    beside = {"loss": {"dense_auxiliary": True}, "distill": str(file)}
    config = settings(beside=beside, processes=processes)
    trainer = precise_trainer(dataset, folder, config, ranks)
    gradients(trainer, batch, 0)
    found = gradients(trainer, without_objects(batch, ranks), 1)
    return found, {name: value.clone() for name, value in trainer.companions.named_buffers()}


def precise_trainer(dataset, folder, config, ranks):
    """In float64, with frozen norms."""
    run_state.seed_generators(0)
    trainer = fit.Trainer(
        dataset, config, fit.start(config, dataset.classes), folder, quiet=True, ranks=ranks
    )
    model = trainer.model.train().double()
    model.normalise = lambda images: images.double() / 255
    trainer.companions.double()
    for part in (*model.modules(), *trainer.companions.modules()):
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    return trainer


def answer(data: Path, processes: int | None) -> dict[str, object]:
    config = settings(processes=processes)
    ranks = join(config)
    dataset = read(data, val_fraction=0.15, seed=0)
    run_state.seed_generators(0)
    trainer = fit.Trainer(
        dataset, config, fit.start(config, dataset.classes), data.parent, quiet=True, ranks=ranks
    )
    model = trainer.model.train()
    first, second = list(trainer.loader.epoch(0, "plain"))
    kept = {}
    # Frozen norms in float32; only the images of the first rank have objects.
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    kept["frozen"] = gradients(trainer, without_objects(first, ranks), 0)
    # Synchronised norms over a few cells at the coarsest level multiply every rounding: this needs more digits.
    for norm in norms:
        norm.train()
    model.double()
    model.normalise = lambda images: images.double() / 255
    kept["synchronised"] = gradients(trainer, second, 1)
    model.float()
    kept["dense"] = dense_gradients(dataset, data.parent, first, processes, ranks)
    kept["companions"], beside = companions(dataset, data.parent, first, processes, ranks)
    buffers = {name: value.clone() for name, value in trainer.model.named_buffers() if "running" in name}
    metrics = evaluate(
        trainer.ema.model.float(),
        trainer.val_records,
        trainer.classes,
        trainer.val_loader,
        device=trainer.device,
        ranks=ranks,
    )
    table = ranks.table([ranks.rank, 7])
    apart = settings(processes=processes, sync_norms=False)
    run_state.seed_generators(0)
    other = fit.Trainer(
        dataset, apart, fit.start(apart, dataset.classes), data.parent, quiet=True, ranks=ranks
    )
    other.model.train()
    other.gradients(first, 0)
    other.ema.update(other.model)
    averaged = [value for name, value in other.ema.model.state_dict().items() if "running" in name]
    statistics = torch.cat([one.flatten() for one in (*moving_statistics(other.model), *averaged)])
    return {
        "gradients": kept,
        "buffers": buffers,
        "beside": beside,
        "numbers": metrics.numbers(),
        "table": table,
        "statistics": ranks.gathered(statistics),
        "first": ranks.first,
        "batches": len(trainer.val_loader),
    }


if __name__ == "__main__":
    found = answer(Path(sys.argv[1]), 2)
    if found.pop("first"):
        torch.save(found, sys.argv[2])
    leave()
