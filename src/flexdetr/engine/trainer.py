"""The training loop: the object that a run is, with its parts and its place in the schedule."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexdetr.config import Config, to_yaml
from flexdetr.data.check import usable_records
from flexdetr.data.dataset import Dataset
from flexdetr.data.loader import Batch, EvaluationLoader, TrainingLoader, default_workers
from flexdetr.data.sampling import samples_of_an_epoch
from flexdetr.data.tiled import all_tiles, tiled
from flexdetr.engine import state as run_state
from flexdetr.engine.batch_size import largest_batch, release_memory
from flexdetr.engine.callbacks import Callbacks
from flexdetr.engine.checkpoint import StartingDetector
from flexdetr.engine.companions import add_losses, build_companions
from flexdetr.engine.compile import compile_parts
from flexdetr.engine.cpu_autocast import training_autocast
from flexdetr.engine.device import arithmetic, choose_device, choose_precision
from flexdetr.engine.distributed import Ranks, own_device
from flexdetr.engine.divisor import divided
from flexdetr.engine.ema import AveragedModel
from flexdetr.engine.gradients import GradientSum
from flexdetr.engine.memory import keep_freed_memory
from flexdetr.engine.norms import moving_statistics, synchronise_norms
from flexdetr.engine.optim import build_optimizer, freeze
from flexdetr.engine.pace import Pace
from flexdetr.engine.preflight import check_space, introduce
from flexdetr.engine.recipe import Recipe, derive, phase, rate_factor
from flexdetr.engine.reporting import report_progress, report_run
from flexdetr.engine.sentinels import (
    Fault,
    PartLoss,
    StepLoss,
    check_step,
    failed_losses,
    is_out_of_memory,
    read_step,
    smaller_parts,
)
from flexdetr.engine.sinks import CsvSink, TrainingDisplay, log_file
from flexdetr.engine.snapshot import restore, snapshot
from flexdetr.engine.steps import Step, micro_batches, shared_step
from flexdetr.engine.stop import Interrupted, on_signal
from flexdetr.engine.sums import TermSums
from flexdetr.engine.teacher import find_teacher, with_absolute_teacher, with_teacher
from flexdetr.engine.trackers import Trackers, check_installed, open_trackers
from flexdetr.engine.validation import added_up, validate
from flexdetr.engine.watchdog import Watchdog, end_process
from flexdetr.files import replacing
from flexdetr.loss.criterion import Losses, build_criterion, class_weights
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.tasks import Score, headline, task
from flexdetr.weights import store

_log = logging.getLogger(__name__)

_ALONE = Ranks()
_MOST_EVALUATED = 32  # images at a time, however large the training's batch


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: everything that the run wrote.
        best: checkpoint of the evaluation with the highest score (AP, top-1).
        last: checkpoint of the last epoch.
        metrics: the best checkpoint's numbers on the validation split.
        seconds: wall-clock time of the training, evaluation included, over all resumed parts.
    """

    folder: Path
    best: Path
    last: Path
    metrics: Score
    seconds: float


class Trainer:
    """One training run: its parts, its place in the schedule, and what it has reached.

    Args:
        dataset: the data, read, with labels in the detector's own order of classes.
        config: the run's configuration; gaps are filled here.
        starting: the detector to train.
        folder: where the run writes.
        quiet: show no progress.
        ranks: this process among those that train together.
        callbacks: the user's; see ``engine.callbacks``.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        starting: StartingDetector,
        folder: Path,
        *,
        quiet: bool,
        ranks: Ranks = _ALONE,
        callbacks: Sequence[object] = (),
    ) -> None:
        self.callbacks = Callbacks(callbacks)
        self.dataset, self.folder, self.ranks = dataset, folder, ranks
        config = with_absolute_teacher(config)
        self.quiet = quiet or not ranks.first
        self.classes = starting.classes
        weights = class_weights(config.data.class_weights, starting.classes)  # an unknown class is told first
        skip_bad = config.data.skip_bad
        self.train_records = usable_records(dataset, "train", skip_bad=skip_bad)
        shown = tiled(self.train_records, config.data, config.seed)
        self.val_records = usable_records(dataset, "val", skip_bad=skip_bad)
        # What learns from tiles is scored on tiles: whole images, much smaller, would choose the wrong epoch as best.
        self.scored_records = all_tiles(self.val_records, config.data)
        tiles = sum(record.window is not None for record in self.scored_records)
        self.validation = f"{tiles} tiles of the validation split" if tiles else "the validation split"
        self.device = choose_device(own_device(config.train.device, ranks))
        self.dtype = choose_precision(config.train.precision, self.device)
        if config.train.batch_size == "auto":
            fits = largest_batch(starting.model.to(self.device), config, self.device, self.dtype)
            fits = ranks.size * int(min(row[0] for row in ranks.table([fits])))
            config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": fits})})
        self.recipe: Recipe = derive(
            config,
            len(self.train_records),
            starting.trained,
            starting.model.backbone.lr_mult,
            samples=samples_of_an_epoch(shown, config.data.repeat_threshold),
        )
        self.config = config = self.recipe.config
        if ranks.size > 1:  # --resume starts as many again
            changed = config.train.model_copy(update={"processes": ranks.size})
            self.config = config = config.model_copy(update={"train": changed})
        self.format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.model = starting.model.to(self.device).to(memory_format=self.format)
        freeze(self.model, config, starting.trained)
        self.criterion = build_criterion(config.loss, config.head, len(self.classes)).to(self.device)
        self.criterion.class_weights = None if weights is None else weights.to(self.device)
        name = config.distill.teacher
        self.teacher = None if name is None else find_teacher(name, self.device)
        self.starting = starting
        if self.teacher is not None:
            self.starting = replace(starting, metadata=with_teacher(starting.metadata, self.teacher))
        companions = build_companions(config, self.model, self.classes, self.teacher)
        self.companions = companions.to(self.device).train()
        beside = list(self.companions.parameters())
        self.optimizer = build_optimizer(self.model, config, starting.trained, beside)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        ranks.same_weights(self.model)
        ranks.same_weights(self.companions)
        self.ema = AveragedModel(self.model, config.train.ema or 0.0, config.train.ema_horizon)
        if ranks.size > 1 and config.train.sync_norms:
            synchronise_norms(self.model, self.device)
            synchronise_norms(self.companions, self.device)
        # The last ones get their gradients first.
        self.learned = [one for one in (*self.model.parameters(), *beside) if one.requires_grad]
        self.gradient_sum = GradientSum(self.learned, ranks)
        if config.train.compile:
            compile_parts(self.model, self.device)
        if not ranks.first:  # what still draws from these, like dropout, draws differently on each rank
            run_state.seed_generators(config.seed + ranks.rank)
        workers, batch = config.data.workers, int(config.train.batch_size or 1)
        workers = default_workers(ranks.local_size) if workers is None else workers
        share: dict[str, Any] = {
            "workers": workers,
            "rank": ranks.rank,
            "world_size": ranks.size,
            "pin_memory": self.device.type == "cuda",
        }
        self.loader = TrainingLoader(
            shown, config, len(self.classes), batch_size=batch, seed=config.seed, **share
        )
        at_once = min(batch, _MOST_EVALUATED)
        self.val_loader = EvaluationLoader(self.scored_records, config.image_size, at_once, **share)
        self.steps_per_epoch = len(self.loader)
        self.steps = self.steps_per_epoch * (config.train.epochs or 1)
        self.epoch, self.batch_index, self.seconds = 0, 0, 0.0
        self.best_score, self.best_epoch = -1.0, 0
        self.sums: dict[str, float] = defaultdict(float)  # "loss", "steps", "seconds"
        self.terms = TermSums(self.device)
        self.stop_requested = False  # here
        self.agreed_stop = False  # on any rank
        self.save_due, self.saved = False, time.monotonic()
        self.parts, self.rolled_back = config.train.accumulate, False
        self.launched: str | None = None  # see ``engine.elastic``
        self.faults: list[Fault] = []
        self.losses: list[PartLoss] = []  # of this step

    def run(self) -> Run:
        """Train to the end. Nothing is written before; what is refused leaves no folder behind."""
        check_installed(self.config.log)
        self.ranks.by_first(lambda: check_space(self), None)
        with run_state.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        train = self.config.train
        if self.device.type == "cpu":
            keep_freed_memory()
        with (
            log_file(self.folder / "log.txt") if self.ranks.first else nullcontext(),
            arithmetic(self.device, tf32=train.tf32, benchmark=train.cudnn_benchmark),
        ):
            return self._run()

    def _run(self) -> Run:
        if self.ranks.first:
            file = self.folder / "config.yaml"
            with run_state.writing(file), replacing(file) as temporary:
                temporary.write_text(to_yaml(self.config), encoding="utf-8")
            self.csv = CsvSink(self.folder / "metrics.csv", keep_epochs=self.epoch)
        done = self.epoch * self.steps_per_epoch + self.batch_index
        began = time.monotonic() - self.seconds
        end = end_process if self.ranks.size > 1 else None
        self.trackers = self.ranks.by_first(
            lambda: open_trackers(self.config, self.folder, epochs=self.epoch), Trackers()
        )
        with (
            self.trackers,
            TrainingDisplay(self.steps, done, quiet=self.quiet) as self.display,
            on_signal(self._request_stop),
            Watchdog(self.config.train.stall, self.folder, self.loader.in_work, end) as self.watchdog,
        ):
            introduce(self)
            self.pace = Pace.of_run(self)
            if not done:  # from here on there is something to go back to
                self._save_state()
            while self.epoch < (self.config.train.epochs or 0) and not self._patience_is_over():
                try:
                    whole = self._train_epoch()
                except NonFiniteError as error:
                    self._roll_back(error)
                    continue
                self.seconds = time.monotonic() - began
                if whole:
                    self._end_epoch()
                else:
                    self._save_state()
                if self._patience_is_over():
                    self.display.line(
                        f"no better score for {self.epoch - self.best_epoch} epochs (train.patience): the run ends here"
                    )
                if self.stopping and self.epoch < (self.config.train.epochs or 0):
                    raise Interrupted(f"stopped; continue with: flexdetr train --resume {self.folder}")
            return self._finish()

    @property
    def stopping(self) -> bool:
        """Whether all ranks stop here: one process at once, several after they agreed."""
        return self.agreed_stop or (self.ranks.size == 1 and self.stop_requested)

    def _train_epoch(self) -> bool:
        """The rest of the current epoch, from ``batch_index`` on; whether it was finished."""
        self.model.train()
        kind = phase(self.config, self.epoch)
        self.criterion.at(self.epoch / (self.config.train.epochs or 1))
        began = time.monotonic()
        last = self.epoch + 1 == self.config.train.epochs
        following = None if last else phase(self.config, self.epoch + 1)
        batches = self.loader.epoch(self.epoch, kind, start_batch=self.batch_index, following=following)
        for batch in batches:
            loss = self._step(batch)
            self.batch_index += 1
            self.callbacks.call("on_step", self, loss=loss)
            self.watchdog.beat("the next batch is made")
            if self.batch_index < self.steps_per_epoch:
                if self.stopping:
                    return False
                if self.save_due:
                    self._save_state()
        self.announce(self.pace.epoch())
        self.sums["seconds"] += time.monotonic() - began
        self.batch_index = 0
        self.epoch += 1
        return True

    def _step(self, batch: Batch) -> float:
        """One optimisation step: forward, match, backward, clip, update, average; the loss before it."""
        number = self.epoch * self.steps_per_epoch + self.batch_index
        factor = rate_factor(self.config, number, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = (self.config.train.lr or 0.0) * group["multiplier"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        self.gradients(batch, number)
        self.scaler.unscale_(self.optimizer)
        clip = self.config.train.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.learned, clip, foreach=True)
        loss = self.read(norm)
        check_step(
            loss.norm,
            self.faults,
            model=self.model,
            batch=batch,
            number=number,
            folder=self.folder,
            ranks=self.ranks,
            overflow_is_normal=self.scaler.is_enabled(),
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model)
        self.sums["loss"] += loss.total
        self.sums["steps"] += 1
        self.announce(self.pace.step())
        self.display.step(
            f"epoch {self.epoch + 1}  loss {self.sums['loss'] / self.sums['steps']:.3f}  {self._score()}"
        )
        return loss.total

    def gradients(self, batch: Batch, number: int) -> None:
        """Add up the gradient of step ``number`` over micro-batches and ranks; ``batch`` is this rank's share."""
        self.faults.clear()
        save = time.monotonic() - self.saved > 60 * self.config.train.save_every
        step = shared_step(
            batch, number, parts=self.parts, stop=self.stop_requested, save=save, ranks=self.ranks
        )
        self.agreed_stop, self.save_due = step.stop, step.save
        while True:
            try:
                self.losses = self._accumulate(batch, step)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, which holds the tensors of the failed attempt.
            waits = self.ranks.size > 1 and self.config.train.sync_norms
            self.parts = smaller_parts(step.parts, len(batch), waits_for_ranks=waits)
            step = step._replace(parts=min(self.parts, len(batch)))
            self.optimizer.zero_grad(set_to_none=True)
            release_memory(self.device)
        self.gradient_sum.finish()
        self.companions.settle(self.ranks)
        if self.criterion.own_divisor:
            self.losses = divided(self.losses, self.learned, least=1 / step.objects, ranks=self.ranks)
        statistics = [one for one in self.criterion.buffers() if one.is_floating_point()]
        # Where norms are apart, what is evaluated, saved and resumed is the same on all ranks.
        if not self.config.train.sync_norms:
            statistics += moving_statistics(self.model) + moving_statistics(self.companions)
        self.ranks.average(statistics)
        for part in self.losses:
            self.terms.add(part.terms)

    def read(self, norm: Tensor) -> StepLoss:
        """The loss of the step whose gradients have this norm. It waits for the device, once; faults are noted."""
        loss, faults = read_step(norm, self.losses)
        self.faults += faults
        return loss

    def _accumulate(self, batch: Batch, step: Step) -> list[PartLoss]:
        """The gradient of this rank's share, added up over its micro-batches; the losses stay on the device."""
        found = []
        self.companions.begin()
        for number, part in enumerate(micro_batches(batch, step, self.config.seed), start=1):
            losses = self._losses(part, step)
            self.gradient_sum.listen(last=number == step.parts)
            torch.autograd.backward(self.scaler.scale(losses.total))
            found.append(PartLoss(losses.total.detach(), losses.terms, tuple(part.image_ids), losses.share))
        return found

    def _losses(self, batch: Batch, step: Step) -> Losses:
        """Forward one micro-batch; the loss is normalised by the objects of the whole step."""
        pictures = batch.images.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device)
        images = self.model.normalise(pictures).contiguous(memory_format=self.format)
        seen = None
        with training_autocast(self.device, self.dtype):
            if len(self.companions):
                seen = self.model.observed(images, targets)
            output = self.model(images, targets) if seen is None else seen.output
        try:
            losses: Losses = self.criterion(output, targets, num_boxes=step.objects)
            if seen is not None:
                with training_autocast(self.device, self.dtype):
                    losses = add_losses(losses, self.companions(seen, pictures, targets, step))
        except NonFiniteError as error:
            self.faults.append(Fault(str(error), error.image_ids))
            return failed_losses(output)
        return losses

    def _roll_back(self, error: NonFiniteError) -> None:
        """Go on from the last good state, in full precision; the second time the run stops.

        Raises:
            NonFiniteError: the second time.
        """
        if self.rolled_back:
            raise NonFiniteError(
                f"{error}. The run went back to its last good state once already; earlier checkpoints are intact. "
                "Look at these images, or start again with a lower train.lr",
                error.image_ids,
            ) from error
        self.loader.close()
        self.ranks.wait()
        self.restore(run_state.load(self.folder))
        self.rolled_back = True
        self.use_full_precision()
        place = f"epoch {self.epoch + 1}, step {self.batch_index}"
        _log.warning("%s. Back at %s, in float32; another such failure ends the run", error, place)

    def use_full_precision(self) -> None:
        """Compute in float32 from here on."""
        self.dtype = torch.float32
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)

    def _end_epoch(self) -> None:
        """Evaluate when it is due, write the row, the checkpoints and the resumable state."""
        epochs = self.config.train.epochs or 0
        row: dict[str, float | int] = {"epoch": self.epoch}
        steps = self.sums["steps"] or 1.0
        row |= {"seconds": self.sums["seconds"]}
        row |= {name: value / steps for name, value in added_up(self).items()}
        row |= self.companions.numbers()
        row["lr"] = self.optimizer.param_groups[-1]["lr"]
        if self.epoch % (self.config.train.eval_every or 1) == 0 or self.epoch == epochs:
            began = time.monotonic()
            row |= validate(self)
            self.announce(self.pace.evaluated(time.monotonic() - began))
        if self.ranks.first:
            self.csv.write(row)
            self.trackers.write(row)
            report_progress(self)
        self.display.line(
            f"epoch {self.epoch}/{epochs}  loss {row.get('loss', 0):.3f}  {self._score()}  "
            f"{row['seconds']:.1f} s an epoch"
        )
        self.sums.clear()
        self.terms.clear()
        self._save_state()
        self.callbacks.call("on_epoch", self, loss=row.get("loss", 0.0), numbers=row)

    def _score(self) -> str:
        return (
            f"best {self.best_score:.3f} (epoch {self.best_epoch})"
            if self.best_epoch
            else "not evaluated yet"
        )

    def _patience_is_over(self) -> bool:
        patience, epochs = self.config.train.patience, self.config.train.epochs or 0
        return bool(patience and self.best_epoch and self.epoch - self.best_epoch >= patience * epochs)

    def announce(self, line: str | None) -> None:
        """A line for the log and the terminal, where there is one."""
        if line is not None:
            _log.info(line)
            self.display.line(line)

    def _request_stop(self) -> None:
        self.stop_requested = True
        self.display.line("stopping after this step ...")

    def _save_state(self) -> None:
        content = snapshot(self)
        self.saved = time.monotonic()
        if self.ranks.first:
            run_state.save(self.folder, content)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state; see ``engine.snapshot``."""
        restore(self, state)

    def _finish(self) -> Run:
        best, last = self.folder / "best.safetensors", self.folder / "last.safetensors"
        best_of = self.ranks.by_first(lambda: store.read_metadata(best).training["validation"], None)
        validation = self.ranks.from_first(best_of)
        metrics = task(self.config.task).score_of(validation)
        if self.config.train.report:
            report_run(self, metrics)
        self.callbacks.call("on_end", self, metrics=metrics)
        self.trackers.finish({**metrics.numbers(), "epoch": self.best_epoch})
        precision = validation.get("precision")  # older checkpoints do not name it
        computed = f", computed in {precision}," if precision else ""
        self.display.line(
            f"done in {self.seconds / 60:.1f} min: {headline(metrics)} on {self.validation}{computed} at epoch "
            f"{self.best_epoch}; {best}"
        )
        return Run(self.folder, best, last, metrics, self.seconds)
