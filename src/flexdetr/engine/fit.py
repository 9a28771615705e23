"""Begin a training run, or go on with one."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from flexdetr.classes import Classes
from flexdetr.config import Config, ConfigError, build, read_yaml
from flexdetr.data.check import read_as, read_for_training
from flexdetr.data.dataset import DataError, Dataset
from flexdetr.data.detect import read
from flexdetr.engine import elastic, launch
from flexdetr.engine import state as run_state
from flexdetr.engine.checkpoint import StartingDetector, blank, start
from flexdetr.engine.distributed import Ranks, among_others, join, wanted_processes
from flexdetr.engine.overfit import Overfit, overfit
from flexdetr.engine.snapshot import reading
from flexdetr.engine.stop import Interrupted
from flexdetr.engine.trainer import Run, Trainer
from flexdetr.foreign_code import first_objection, named
from flexdetr.loss.matcher import NonFiniteError
from flexdetr.weights.skeleton import set_norm_eps
from flexdetr.weights.store import Metadata
from flexdetr.weights.trained import TrainedParts

__all__ = [
    "Interrupted",
    "NonFiniteError",
    "Overfit",
    "Run",
    "Trainer",
    "overfit_one_batch",
    "read",
    "resume",
    "start",
    "train",
]


def train(
    data: str | Path,
    config: Config,
    *,
    out: str | Path,
    starting: StartingDetector | None = None,
    quiet: bool = False,
    callbacks: Sequence[object] = (),
    dataset: Dataset | None = None,
) -> Run:
    """Train a detector on a data set.

    Args:
        data: folder (or a file inside it) in COCO, VOC or YOLO format.
        config: the run's configuration; gaps in it are derived from the data.
        out: the run's folder; see INTERFACE "A run folder" in the documentation.
        starting: a detector to go on from; None builds one and loads what ``config.weights`` asks for.
        quiet: show no progress.
        callbacks: objects with any of ``on_step``, ``on_epoch``, ``on_evaluation`` and ``on_end``, each of which takes
            a ``flexdetr.engine.callbacks.Moment``; they are called in the first process.
        dataset: what ``read_for_training`` read there, where this process has read it already.

    Returns:
        The finished run. Begun again by torchrun after a process died (``--max-restarts``), it goes on from the last
        state that this launch left in ``out``.

    Raises:
        DataError: if the data cannot be used; nothing has been trained then.
        ConfigError: if the configuration does not fit, or ``out`` holds another run.
        NonFiniteError: if losses or gradients are not finite for the second time; earlier checkpoints are intact.
        MemoryExhaustedError: if not even a single image fits in memory.
        CallbackError: if a callback fails.
        Interrupted: after Ctrl-C or SIGTERM; ``resume`` continues exactly there.
    """
    _refuse_while_starting()
    folder = Path(out)
    mark = elastic.launch_mark(data, config)
    if elastic.goes_on(folder, mark):
        typed = named(config.model_dump()).values()
        return resume(folder, data=data, quiet=quiet, typed=typed, callbacks=callbacks)
    check_free(folder)
    if wanted_processes(config) > 1 and not among_others():
        _refuse_callbacks(callbacks, config)
        return launch.train(data, config, out=folder, starting=starting, quiet=quiet)
    ranks = join(config)
    folder = ranks.from_first(folder)  # each process of an outer torchrun may have chosen one by itself
    dataset = _read(data, config, ranks, dataset)
    if starting is not None:
        dataset = dataset.with_classes(starting.classes)
    run_state.seed_generators(config.seed)
    if not ranks.first:
        ranks.wait()  # one process fetches published weights, the others find them
    starting = starting or start(config, dataset.classes)
    if ranks.first:
        ranks.wait()
    # The run's configuration says what the start has settled: what "auto" was, and how narrow a pruned detector is.
    settled: dict[str, object] = {"pruned": starting.config.pruned}
    if config.weights == "auto":
        settled["weights"] = starting.config.weights
    config = config.model_copy(update=settled)
    trainer = Trainer(dataset, config, starting, folder, quiet=quiet, ranks=ranks, callbacks=callbacks)
    trainer.launched = mark
    return trainer.run()


def check_free(folder: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        ConfigError: with what to do.
    """
    if elastic.holds_state(folder):
        raise ConfigError(
            f"{folder} holds a run already; continue it with --resume {folder}, or choose another --out"
        )


def overfit_one_batch(
    data: str | Path, config: Config, *, starting: StartingDetector | None = None, quiet: bool = False
) -> Overfit:
    """Train a copy of a detector on one batch, in this process; nothing is written. See ``engine.overfit``.

    Args:
        data: folder (or a file inside it) in COCO, VOC or YOLO format.
        config: the configuration that the run would have.
        starting: the detector that the run would go on from; it stays as it is.
        quiet: show no progress.

    Raises:
        DataError: if the data cannot be used, or has no object.
        ConfigError: if the configuration does not fit.
    """
    dataset = read_as(config, data)
    if starting is not None:
        dataset = dataset.with_classes(starting.classes)
        starting = replace(starting, model=copy.deepcopy(starting.model))
    run_state.seed_generators(config.seed)
    return overfit(dataset, config, starting or start(config, dataset.classes), quiet=quiet)


def resume(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    parts: int | None = None,
    quiet: bool = False,
    typed: Collection[str] = (),
    callbacks: Sequence[object] = (),
) -> Run:
    """Continue the run in a folder exactly where it stopped; everything else is read from the folder.

    Args:
        folder: of the run.
        data: where the data set lies now, if it was moved.
        device: go on here instead, with one process for each GPU that is named; the batch stays the same, and the run
            is the same but for the order of additions. None takes the run's own devices and processes.
        parts: micro-batches of a step from here on; None leaves them as they were.
        quiet: show no progress.
        typed: code that the person named in this call: the folder's configuration may name it.
        callbacks: as for ``train``.

    Raises:
        ConfigError: if the folder's configuration names other code.
        StateError: if the folder holds no resumable state.
        DataError: if the data is no longer what the run began with.
    """
    _refuse_while_starting()
    folder = Path(folder)
    state = run_state.load(folder)
    config = build(read_yaml(folder / "config.yaml"))
    if (reason := first_objection(config.model_dump(), folder / "config.yaml", typed)) is not None:
        raise ConfigError(reason)
    if device is not None:
        config = config.having(train={"device": device, "processes": None})
    if wanted_processes(config) > 1 and not among_others():
        _refuse_callbacks(callbacks, config)
        return launch.resume(folder, config, data=data, quiet=quiet, device=device)
    ranks = join(config)
    with reading(folder):
        place, classes = Path(data or str(state["data"])), Classes.from_json(state["classes"])
        metadata, trained = Metadata.from_json(state["metadata"]), TrainedParts.from_json(state["trained"])
    if not place.exists():
        raise DataError(
            f"the data of the run, {place}, is not there; if it was moved, name its new place: "
            f"flexdetr train NEW_PLACE --resume {folder}"
        )
    dataset = _read(place, config, ranks)
    starting = replace(blank(config, classes), metadata=metadata, trained=trained, notes=())
    set_norm_eps(starting.model, starting.metadata.norm_eps)
    trainer = Trainer(
        dataset.with_classes(classes), config, starting, folder, quiet=quiet, ranks=ranks, callbacks=callbacks
    )
    trainer.restore(state)
    trainer.parts = trainer.parts if parts is None else parts
    return trainer.run()


def _refuse_callbacks(callbacks: Sequence[object], config: Config) -> None:
    """Processes that are started here do not see this one's objects.

    Raises:
        ConfigError: if there are callbacks.
    """
    if callbacks:
        raise ConfigError(
            f"callbacks are not seen by the {wanted_processes(config)} processes that this run would start; train in "
            "one process, or start the script with torchrun: the first process calls them"
        )


def _refuse_while_starting() -> None:
    """Spawned loader workers import the script that began them: it would train once more in each.

    Raises:
        ConfigError: in such a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "this script trains when it is imported, and worker processes import it: put what it does under "
            'if __name__ == "__main__":'
        )


def _read(data: str | Path, config: Config, ranks: Ranks, known: Dataset | None = None) -> Dataset:
    """The data as the first rank reads it: reading looks into every image, which is enough to do once."""

    def work() -> Dataset | None:
        return known or read_for_training(data, config)

    # Where the first rank cannot read it, all of them raise.
    return cast("Dataset", ranks.from_first(ranks.by_first(work, None)))
