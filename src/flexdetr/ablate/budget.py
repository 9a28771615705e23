"""A budget in minutes, as the number of epochs that fit: the schedule is made for these, and runs to its end."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from flexdetr.ablate.run_records import EPOCHS, Epochs, read_record
from flexdetr.config import Config, ConfigError
from flexdetr.engine import fit
from flexdetr.engine.recipe import derive
from flexdetr.files import write_whole
from flexdetr.weights.store import read_metadata
from flexdetr.weights.trained import TrainedParts

_log = logging.getLogger(__name__)

FILE: Final = "budget.json"
_MOST_EPOCHS = 10_000


def epochs_within(
    minutes: float, epoch_seconds: float, evaluation_seconds: float, config: Config, images: int
) -> int:
    """The largest number of epochs whose training and evaluations fit.

    Args:
        minutes: for the whole run.
        epoch_seconds: of one epoch's training.
        evaluation_seconds: of one evaluation.
        config: says how often it is evaluated, or leaves that to the recipe.
        images: training images.

    Raises:
        ConfigError: if not even one fits.
    """
    fitting = 0
    # The recipe asks for a number of images; how often it evaluates does not depend on it.
    batch = {"batch_size": None} if config.train.batch_size == "auto" else {}
    for epochs in range(1, min(_MOST_EPOCHS, int(60 * minutes / max(epoch_seconds, 1e-3))) + 1):
        planned = config.having(train={"epochs": epochs, **batch})
        every = derive(planned, images, TrainedParts(), 1.0).config.train.eval_every or 1
        if epochs * epoch_seconds + -(-epochs // every) * evaluation_seconds <= 60 * minutes:
            fitting = epochs
    if not fitting:
        raise ConfigError(
            f"a budget of {minutes:g} minutes is too short for one epoch, which takes {epoch_seconds:.0f} s to train "
            f"and {evaluation_seconds:.0f} s to evaluate; give more, or a smaller image_size"
        )
    return fitting


def measured_epochs(
    name: str,
    config: Config,
    data: str,
    minutes: float,
    folder: Path,
    *,
    measure: bool = True,
    quiet: bool = False,
) -> int:
    """The epochs of a variant's runs: measured once, by one epoch that is thrown away, and kept in the folder.

    That epoch has the strongest augmentation that the run will have from its first step on, and it starts the loader:
    both make it slow, so that a run stays within its budget.

    Without ``measure`` only what is known is taken.

    Raises:
        ConfigError: if not even one epoch fits, or nothing is known and nothing may be measured; or where what
            is kept is damaged.
    """
    path = folder / FILE
    remedy = "delete it, and the epochs that fit are measured again"
    known = read_record(path, EPOCHS, remedy) or {}
    settings = {"config": config.model_dump(mode="json"), "minutes": minutes}
    entry = known.get(name)
    if entry is None or entry.model_dump(include=set(settings)) != settings:
        if not measure:
            raise ConfigError(f"{path} does not say how many epochs of {name} fit: no run has been made")
        trial = config.having(train={"epochs": 1, "augment_from": 0.0})
        with TemporaryDirectory(prefix="flexdetr-budget-") as scratch:
            run = fit.train(data, trial, out=Path(scratch) / name, quiet=quiet)
            with (run.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                training = float(next(csv.DictReader(file))["seconds"])
            images = int(read_metadata(run.last).training["images"])
        rest = run.seconds - training
        epochs = epochs_within(minutes, training, rest, config, images)
        entry = Epochs(**settings, epoch_seconds=training, evaluation_seconds=rest, epochs=epochs)
        write_whole(path, EPOCHS.dump_json({**known, name: entry}, indent=1).decode())
        _log.info("%s: %d epochs fit into %g minutes", name, entry.epochs, minutes)
    return entry.epochs
