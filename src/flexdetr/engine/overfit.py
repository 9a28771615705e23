"""A sanity check before a long run: can the detector overfit one batch?

A wrong class index, boxes in the wrong format, a learning rate far off or a part that passes no gradient show here
within minutes. The steps are a run's own, with its loss and its optimiser, on images without augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from flexdetr.config import Config
from flexdetr.data.batches import Batch
from flexdetr.data.dataset import DataError, Dataset, Record
from flexdetr.engine.checkpoint import StartingDetector
from flexdetr.engine.evaluate import evaluate
from flexdetr.engine.sinks import TrainingDisplay
from flexdetr.engine.trainer import Trainer

_IMAGES = 4
_STEPS, _BETWEEN = 300, 50  # steps at most, and between two looks at the result
_RATES = {
    True: 3e-4,
    False: 1e-3,
}  # by whether the whole detector is trained; for where the configuration gives none
_WARMUP = 20
_COLLAPSED, _FOUND = 0.5, 0.9  # of the first loss at most; AP50 at least
_SMALL = 8  # pixels of an object's side, at the network's size, below which it can hardly be found


@dataclass(frozen=True)
class Overfit:
    """What came of overfitting one batch.

    Attributes:
        images: in the batch.
        objects: in the batch.
        steps: that were made.
        first_loss: of the first step.
        last_loss: mean of the last ten.
        ap50: on the same images, as an evaluation sees them; of a classifier its top-1.
        hints: what to look at where it failed.
    """

    images: int
    objects: int
    steps: int
    first_loss: float
    last_loss: float
    ap50: float
    hints: tuple[str, ...]

    @property
    def collapsed(self) -> bool:
        """Whether the loss fell to half of what it was, or below."""
        return self.last_loss <= _COLLAPSED * self.first_loss

    @property
    def passed(self) -> bool:
        """Whether the loss collapsed and the objects are found."""
        return self.collapsed and self.ap50 >= _FOUND


def overfit(dataset: Dataset, config: Config, starting: StartingDetector, *, quiet: bool = False) -> Overfit:
    """Train on one batch until its objects are found, 300 steps at most. Nothing is written.

    Args:
        dataset: the data, with labels in the detector's own order of classes.
        config: the run's configuration; its schedule and augmentation are left out.
        starting: the detector, which is changed.
        quiet: show no progress.

    Raises:
        DataError: if no training image has an object, or one that is chosen cannot be used.
    """
    records = _choose(dataset, config.seed)
    few = replace(dataset, splits={"train": records, "val": records})
    run = Trainer(few, _plain(config, starting, len(records)), starting, Path("nowhere"), quiet=quiet)
    (batch,) = run.loader.preview(0, "plain", len(records))
    losses: list[float] = []
    ap50 = 0.0
    with TrainingDisplay(_STEPS, quiet=quiet) as display:
        display.line(
            f"overfitting {len(batch)} images with {batch.targets.num_objects} objects, {_STEPS} steps at most"
        )
        while len(losses) < _STEPS:
            losses.append(_step(run, batch, len(losses)))
            if not math.isfinite(losses[-1]):
                break
            display.step(f"loss {losses[-1]:.3f}  AP50 {ap50:.3f}")
            if len(losses) % _BETWEEN == 0:
                metrics = evaluate(
                    run.model,
                    records,
                    run.classes,
                    run.val_loader,
                    device=run.device,
                    dtype=run.dtype,
                    kind=run.config.task,
                )
                ap50 = metrics.learned
                display.line(f"step {len(losses)}: loss {losses[-1]:.3f}, AP50 {ap50:.3f}")
                if ap50 >= _FOUND and losses[-1] <= _COLLAPSED * losses[0]:
                    break
    last = float(np.mean(losses[-10:]))
    hints = _hints(run, records, losses)
    return Overfit(len(batch), batch.targets.num_objects, len(losses), losses[0], last, ap50, hints)


def _choose(dataset: Dataset, seed: int) -> tuple[Record, ...]:
    """The batch's images: some of those with objects."""
    records = dataset.split("train")
    order = np.random.default_rng(seed).permutation(len(records))
    chosen = [records[index] for index in order if not records[index].iscrowd.all()][:_IMAGES]
    if not chosen:
        raise DataError(f"{dataset.root}: no training image has an object, so there is nothing to overfit")
    return tuple(chosen)


def _plain(config: Config, starting: StartingDetector, images: int) -> Config:
    """The configuration without augmentation, and with a step of all images at a settled rate."""
    train = {
        "batch_size": images,
        "accumulate": 1,
        "epochs": _STEPS,
        "lr": config.train.lr or _RATES[starting.trained.all_trained],
        "processes": None,
    }
    data = {"flip": 0.0, "multi_scale": False, "workers": 0, "repeat_threshold": None, "tiles": None}
    return config.having(train=train, data=data)


def _step(run: Trainer, batch: Batch, number: int) -> float:
    """A step as a run makes it, with a rate that rises and falls; the loss before it."""
    run.model.train()
    rise = min(1.0, (number + 1) / _WARMUP)
    fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * number / _STEPS))
    for group in run.optimizer.param_groups:
        group["lr"] = (run.config.train.lr or 0.0) * group["multiplier"] * rise * fall
    run.optimizer.zero_grad(set_to_none=True)
    run.gradients(batch, number)
    run.scaler.unscale_(run.optimizer)
    clip = run.config.train.clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.learned, clip, foreach=True)
    skipped = run.scaler.is_enabled()  # by itself, where fp16 overflows
    loss = run.read(norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return loss.total if math.isfinite(loss.norm) or skipped else math.nan


def _hints(run: Trainer, records: tuple[Record, ...], losses: list[float]) -> tuple[str, ...]:
    """What to look at where it failed, the most likely first."""
    hints = []
    if run.faults:
        hints.append(f"what was not finite: {run.faults[0].reason}")
    height, width = run.config.image_size
    sides = [
        np.sqrt(np.prod(record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2], axis=1))
        * math.sqrt(height * width / (record.height * record.width))
        for record in records
    ]
    small = float(np.mean(np.concatenate(sides) < _SMALL))
    if small > 0.1:
        hints.append(
            f"--image-size: {small:.0%} of the objects are under {_SMALL} pixels wide at {height}x{width}"
        )
    if losses[-1] > _COLLAPSED * losses[0]:
        hints.append(f"train.lr={run.config.train.lr:g}: too low learns nothing, too high never settles")
    part = run.config.backbone
    if part.freeze_stages or part.freeze_stem:
        hints.append(
            f"backbone.freeze_stages={part.freeze_stages}: what is frozen has to fit the pictures already"
        )
    paths = ", ".join(record.path.name for record in records)
    hints.append(f"the labels of {paths}: flexdetr check lists defects, a run's samples.png shows the boxes")
    return tuple(hints)
