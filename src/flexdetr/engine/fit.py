"""Train a detector: one function that a person can read from top to bottom, and the run object it works on."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError, build, read_yaml, to_yaml
from flexdetr.data.check import usable_records
from flexdetr.data.dataset import DataError, Dataset, Record, fingerprint
from flexdetr.data.detect import read
from flexdetr.data.loader import Batch, EvaluationLoader, TrainingLoader
from flexdetr.engine import state as run_state
from flexdetr.engine.batch_size import largest_batch
from flexdetr.engine.checkpoint import Start, blank, start
from flexdetr.engine.device import autocast, choose_device, choose_precision
from flexdetr.engine.ema import AveragedModel
from flexdetr.engine.evaluate import evaluate
from flexdetr.engine.optim import build_optimizer
from flexdetr.engine.recipe import Recipe, derive, phase, rate_factor
from flexdetr.engine.sinks import CsvSink, TrainingDisplay, log_file
from flexdetr.engine.stop import Interrupted, on_signal
from flexdetr.loss.criterion import Criterion, Losses
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.metrics.coco_map import Metrics
from flexdetr.model.fuse import fuse
from flexdetr.model.outputs import Targets
from flexdetr.weights import store
from flexdetr.weights.skeleton import set_norm_eps
from flexdetr.weights.store import Metadata

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: everything that the run wrote.
        best: checkpoint of the evaluation with the highest AP.
        last: checkpoint of the last epoch.
        metrics: the best checkpoint's numbers on the validation split.
        seconds: wall-clock time of the training, evaluation included, over all resumed parts.
    """

    folder: Path
    best: Path
    last: Path
    metrics: Metrics
    seconds: float


def train(
    data: str | Path, config: Config, *, out: str | Path, begun: Start | None = None, quiet: bool = False
) -> Run:
    """Train a detector on a data set.

    Args:
        data: folder (or a file inside it) in COCO, VOC or YOLO format.
        config: the run's configuration; gaps in it are derived from the data.
        out: the run's folder; see INTERFACE "A run folder" in the documentation.
        begun: a detector to go on from; None builds one and loads what ``config.weights`` asks for.
        quiet: show no progress.

    Returns:
        The finished run.

    Raises:
        DataError: where the data cannot be used; nothing has been trained then.
        ConfigError: where the configuration does not fit, or ``out`` holds another run.
        NonFiniteError: where the loss is no longer finite; checkpoints of before are intact.
        Interrupted: after Ctrl-C or SIGTERM; ``resume`` continues exactly there.
    """
    folder = Path(out)
    if (folder / run_state.FILE).exists():
        raise ConfigError(
            f"{folder} holds a run already; continue it with --resume {folder}, or choose another --out"
        )
    dataset = read(data, val_fraction=config.data.val_fraction, seed=config.seed)
    if begun is not None:
        dataset = dataset.with_classes(begun.classes)
    run_state.seed_generators(config.seed)
    return Trainer(dataset, config, begun or start(config, dataset.classes), folder, quiet=quiet).run()


def resume(folder: str | Path, *, quiet: bool = False) -> Run:
    """Continue the run in a folder exactly where it stopped; everything else is read from the folder.

    Raises:
        StateError: where the folder holds no resumable state.
        DataError: where the data is no longer what the run began with.
    """
    folder = Path(folder)
    state = run_state.load(folder)
    config = build(read_yaml(folder / "config.yaml"))
    dataset = read(state["data"], val_fraction=config.data.val_fraction, seed=config.seed)
    classes = Classes.from_json(state["classes"])
    begun = replace(
        blank(config, classes),
        metadata=Metadata.from_json(state["metadata"]),
        pretrained=state["pretrained"],
        notes=(),
    )
    set_norm_eps(begun.model, begun.metadata.norm_eps)
    trainer = Trainer(dataset.with_classes(classes), config, begun, folder, quiet=quiet)
    trainer.restore(state)
    return trainer.run()


class Trainer:
    """One training run: its parts, its place in the schedule, and what it has reached.

    Args:
        dataset: the data, read, with labels in the detector's own order of classes.
        config: the run's configuration; gaps are filled here.
        begun: the detector to train.
        folder: where the run writes.
        quiet: show no progress.
    """

    def __init__(self, dataset: Dataset, config: Config, begun: Start, folder: Path, *, quiet: bool) -> None:
        self.dataset, self.begun, self.folder, self.quiet = dataset, begun, folder, quiet
        self.classes = begun.classes
        self.train_records = _records(dataset, "train", config)
        self.val_records = _records(dataset, "val", config)
        self.device = choose_device(config.train.device)
        self.dtype = choose_precision(config.train.precision, self.device)
        if config.train.batch_size == "auto":
            batch = largest_batch(begun.model.to(self.device), config, self.device, self.dtype)
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"batch_size": batch})}
            )
        self.recipe: Recipe = derive(config, len(self.train_records), pretrained=begun.pretrained)
        self.config = config = self.recipe.config
        self.format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.model = begun.model.to(self.device).to(memory_format=self.format)
        if begun.pretrained:  # freezing what starts at random would freeze noise
            part = config.backbone
            self.model.backbone.freeze(
                stem=part.freeze_stem, stages=part.freeze_stages, norms=part.freeze_norms
            )
        self.criterion = Criterion(config.loss, len(self.classes)).to(self.device)
        self.optimizer = build_optimizer(self.model, config, pretrained=begun.pretrained)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = AveragedModel(self.model, config.train.ema or 0.0)
        workers, batch = config.data.workers, int(config.train.batch_size or 1)
        self.loader = TrainingLoader(
            self.train_records, config, len(self.classes), batch_size=batch, seed=config.seed, workers=workers
        )
        self.val_loader = EvaluationLoader(self.val_records, config.image_size, batch, workers)
        self.steps_per_epoch = len(self.loader)
        self.steps = self.steps_per_epoch * (config.train.epochs or 1)
        self.epoch, self.batch_index, self.seconds = 0, 0, 0.0
        self.best_ap, self.best_epoch = -1.0, 0
        self.sums: dict[str, float] = defaultdict(float)
        self.stop_requested = False

    def run(self) -> Run:
        """Train to the end. Nothing is written before; what is refused leaves no folder behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with log_file(self.folder / "log.txt"):
            return self._run()

    def _run(self) -> Run:
        (self.folder / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
        self.csv = CsvSink(self.folder / "metrics.csv", keep_epochs=self.epoch)
        done = self.epoch * self.steps_per_epoch + self.batch_index
        began = time.monotonic() - self.seconds
        with (
            TrainingDisplay(self.steps, done, quiet=self.quiet) as self.display,
            on_signal(self._request_stop),
        ):
            self._introduce()
            while self.epoch < (self.config.train.epochs or 0) and not self._patience_is_over():
                self._train_epoch()
                self.seconds = time.monotonic() - began
                if self.stop_requested:
                    self._save_state()
                    raise Interrupted(f"stopped; continue with: flexdetr train --resume {self.folder}")
                self._end_epoch()
        return self._finish()

    def _train_epoch(self) -> None:
        """The rest of the current epoch, from ``batch_index`` on."""
        self.model.train()
        kind = phase(self.config, self.epoch)
        began = time.monotonic()
        last = self.epoch + 1 == self.config.train.epochs
        following = None if last else phase(self.config, self.epoch + 1)
        batches = self.loader.epoch(self.epoch, kind, start_batch=self.batch_index, following=following)
        for batch in batches:
            self._step(batch)
            self.batch_index += 1
            if self.stop_requested and self.batch_index < self.steps_per_epoch:
                return
        self.sums["seconds"] += time.monotonic() - began
        self.batch_index = 0
        self.epoch += 1

    def _step(self, batch: Batch) -> None:
        """One optimisation step: forward, match, backward, clip, update, average."""
        number = self.epoch * self.steps_per_epoch + self.batch_index
        factor = rate_factor(self.config, number, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = (self.config.train.lr or 0.0) * group["multiplier"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        objects = float(max(1, batch.targets.num_objects))
        total = 0.0
        for part in _micro_batches(batch, self.config.train.accumulate):
            losses = self._losses(part, objects, number)
            torch.autograd.backward(self.scaler.scale(losses.total))
            total += float(losses.total.detach())
            for name, value in losses.terms.items():
                self.sums[name.partition(".")[0]] += float(value.detach())
        self.scaler.unscale_(self.optimizer)
        clip = self.config.train.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip, foreach=True)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise NonFiniteError(
                f"step {number}: the gradient is {float(norm)} on images {batch.image_ids}; checkpoints of before are "
                "intact. Lower train.lr, or use --precision fp32",
                batch.image_ids,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model)
        self.sums["loss"] += total
        self.sums["steps"] += 1
        self.display.step(
            f"epoch {self.epoch + 1}  loss {self.sums['loss'] / self.sums['steps']:.3f}  {self._score()}"
        )

    def _losses(self, batch: Batch, objects: float, number: int) -> Losses:
        """Forward one micro-batch; the loss is normalised by the objects of the whole step."""
        images = batch.images.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device)
        images = self.model.normalise(images).contiguous(memory_format=self.format)
        with autocast(self.device, self.dtype):
            output = self.model(images, targets)
        try:
            losses: Losses = self.criterion(output, targets, num_boxes=objects)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {number}: {error}; checkpoints of before are intact", error.image_ids
            ) from None
        if not torch.isfinite(losses.total):
            terms = ", ".join(f"{name} {float(value):.4g}" for name, value in losses.terms.items())
            raise NonFiniteError(
                f"step {number}: the loss is {float(losses.total)} on images {batch.image_ids} ({terms}); checkpoints "
                "of before are intact. Lower train.lr, or use --precision fp32",
                batch.image_ids,
            )
        return losses

    def _end_epoch(self) -> None:
        """Evaluate when it is due, write the row, the checkpoints and the resumable state."""
        epochs = self.config.train.epochs or 0
        row: dict[str, float | int] = {"epoch": self.epoch}
        steps = self.sums.pop("steps", 1.0)
        row |= {"seconds": self.sums.pop("seconds", 0.0)}
        row |= {name: value / steps for name, value in self.sums.items()}
        row["lr"] = self.optimizer.param_groups[-1]["lr"]
        if self.epoch % (self.config.train.eval_every or 1) == 0 or self.epoch == epochs:
            row |= self._evaluate()
        self.csv.write(row)
        self.display.line(
            f"epoch {self.epoch}/{epochs}  loss {row.get('loss', 0):.3f}  {self._score()}  "
            f"{row['seconds']:.1f} s an epoch"
        )
        self.sums.clear()
        self._save_state()

    def _evaluate(self) -> dict[str, float]:
        """Score the averaged weights on the validation split and keep them where they are the best so far."""
        metrics = evaluate(
            fuse(self.ema.model),
            self.val_records,
            self.classes,
            self.val_loader,
            device=self.device,
            dtype=self.dtype,
        )
        summary = {"epoch": self.epoch, **metrics.to_json()}
        metadata = self.begun.describe(self.config, {**self._summary(), "validation": summary})
        weights = self.ema.model.state_dict()
        store.save(self.folder / "last.safetensors", weights, metadata)
        if not metrics.ap <= self.best_ap:  # also where no object counts and AP is nan
            self.best_ap, self.best_epoch, self.best_metrics = metrics.ap, self.epoch, metrics
            store.save(self.folder / "best.safetensors", weights, metadata)
        return {"ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75}

    def _score(self) -> str:
        return (
            f"best AP {self.best_ap:.3f} (epoch {self.best_epoch})"
            if self.best_epoch
            else "not evaluated yet"
        )

    def _patience_is_over(self) -> bool:
        patience, epochs = self.config.train.patience, self.config.train.epochs or 0
        return bool(patience and self.best_epoch and self.epoch - self.best_epoch >= patience * epochs)

    def _summary(self) -> dict[str, Any]:
        return {
            "data": str(self.dataset.root),
            "images": len(self.train_records),
            "epochs": self.config.train.epochs,
            "steps": self.steps,
            "seed": self.config.seed,
            "seconds": round(self.seconds, 1),
        }

    def _introduce(self) -> None:
        """Say what will be done, and why."""
        objects = sum(len(record.labels) for record in self.train_records)
        lines = [
            f"data: {len(self.train_records)} training images with {objects} objects of {len(self.classes)} classes, "
            f"{len(self.val_records)} validation images",
            *self.dataset.notes,
            *self.begun.notes,
            *self.recipe.reasons,
            f"{self.steps} steps on {self.device} in {str(self.dtype).removeprefix('torch.')}, into {self.folder}",
        ]
        if self.epoch or self.batch_index:
            lines.append(f"resumed at epoch {self.epoch + 1}, step {self.batch_index}")
        for line in lines:
            _log.info(line)
            self.display.line(line)

    def _request_stop(self) -> None:
        self.stop_requested = True
        self.display.line("stopping after this step ...")

    def _save_state(self) -> None:
        run_state.save(
            self.folder,
            {
                "data": str(self.dataset.root.resolve()),
                "classes": self.classes.to_json(),
                "metadata": self.begun.metadata.to_json(),
                "pretrained": self.begun.pretrained,
                "fingerprint": fingerprint(self.train_records),
                "model": self.model.state_dict(),
                "criterion": self.criterion.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": run_state.random_state(),
                "epoch": self.epoch,
                "batch": self.batch_index,
                "seconds": self.seconds,
                "best": (self.best_ap, self.best_epoch),
                "sums": dict(self.sums),
            },
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            DataError: where the training images or their boxes have changed since.
        """
        if state["fingerprint"] != fingerprint(self.train_records):
            raise DataError(
                f"{self.dataset.root} has changed since {self.folder} began, so the run cannot go on exactly; put the "
                "data back, or begin a new run with --weights and the folder's last.safetensors"
            )
        self.model.load_state_dict(state["model"])
        self.criterion.load_state_dict(state["criterion"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch_index, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.best_ap, self.best_epoch = state["best"]
        self.sums = defaultdict(float, state["sums"])
        run_state.restore_random_state(state["random"])

    def _finish(self) -> Run:
        best, last = self.folder / "best.safetensors", self.folder / "last.safetensors"
        metadata = store.read_metadata(best)
        metrics = Metrics.from_json(metadata.training["validation"])
        self.display.line(
            f"done in {self.seconds / 60:.1f} min: AP {metrics.ap:.3f}, AP50 {metrics.ap50:.3f} on the validation "
            f"split at epoch {self.best_epoch}; {best}"
        )
        return Run(self.folder, best, last, metrics, self.seconds)


def _records(dataset: Dataset, split: str, config: Config) -> tuple[Record, ...]:
    records = usable_records(dataset, split, skip_bad=config.data.skip_bad)
    if not records:
        raise DataError(f"{dataset.root}: the {split} split has no images")
    return records


def _micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """``count`` parts of a batch, as even as they can be."""
    size = math.ceil(len(batch.targets) / count)
    for first in range(0, len(batch.targets), size):
        cut = slice(first, first + size)
        targets = Targets(batch.targets.labels[cut], batch.targets.boxes[cut], batch.targets.image_ids[cut])
        yield Batch(batch.images[cut], targets, batch.sizes[cut], batch.image_ids[cut])
