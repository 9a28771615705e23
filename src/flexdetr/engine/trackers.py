"""Where a run's numbers go besides ``metrics.csv``: TensorBoard, MLflow, Weights & Biases.

Each is a class with one signature: opened on a ``TrackedRun``, given the rows of ``metrics.csv``, closed with the final
numbers. Its library is imported when it is opened. A tracker added here is one class, and a row in
``flexdetr.engine.tracker_table``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from flexdetr.config import Config, ConfigError
from flexdetr.engine import state as run_state
from flexdetr.engine.tracker_table import TRACKERS
from flexdetr.files import write_whole
from flexdetr.part_table import load_part

_log = logging.getLogger(__name__)

FILE = "trackers.json"
_PROJECT = "flexdetr"
_MOST_PARAMETERS = 100  # that MLflow takes at once


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told at the beginning.

    Attributes:
        folder: of the run; its name names the run.
        settings: the whole configuration by dotted key.
        epochs: rows that a resumed run has behind it.
        known: what ``place`` gave when the run began; empty for a new run.
    """

    folder: Path
    settings: Mapping[str, Any]
    epochs: int
    known: Mapping[str, str]


class Tracker(Protocol):
    """What each tracker can do. ``place`` is how a resumed run finds it again."""

    place: dict[str, str]

    def write(self, row: Mapping[str, float | int]) -> None:
        """Take a row of ``metrics.csv``."""

    def close(self, final: Mapping[str, float], *, ended: str) -> None:
        """Take the best checkpoint's numbers, and end; ``ended`` is "done", "stopped" or "failed"."""


class TensorBoard:
    """Event files in the run's folder: ``tensorboard --logdir runs`` shows all runs beside each other."""

    def __init__(self, story: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        again = story.epochs + 1 if story.known else None  # epochs that are run again replace the former ones
        folder = story.folder / "tensorboard"
        self._writer: Any = SummaryWriter(str(folder), purge_step=again)
        if not story.known:
            rows = "\n".join(f"| {key} | {value} |" for key, value in story.settings.items())
            self._writer.add_text("configuration", f"| key | value |\n|---|---|\n{rows}")
        self.place = {"folder": folder.name}

    def write(self, row: Mapping[str, float | int]) -> None:
        """One point of each curve."""
        for key, value in row.items():
            self._writer.add_scalar(key, value, int(row["epoch"]))
        self._writer.flush()

    def close(self, final: Mapping[str, float], *, ended: str) -> None:
        """The final numbers as ``final/...``."""
        del ended
        for key, value in final.items():
            self._writer.add_scalar(f"final/{key}", value)
        self._writer.close()


class MLflow:
    """A run where MLflow's own settings say: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the current folder."""

    def __init__(self, story: TrackedRun) -> None:
        import mlflow

        uri = story.known.get("uri") or mlflow.get_tracking_uri()
        # A client of our own leaves alone what the program around us has open in MLflow.
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        if story.known:
            self._run = story.known["run"]
            self._client.update_run(self._run, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            self._run = self._client.create_run(number, run_name=story.folder.name).info.run_id
            settings = [mlflow.entities.Param(key, str(value)[:500]) for key, value in story.settings.items()]
            for first in range(0, len(settings), _MOST_PARAMETERS):
                self._client.log_batch(self._run, params=settings[first : first + _MOST_PARAMETERS])
        self._metric = mlflow.entities.Metric
        self.place = {"uri": uri, "run": self._run}

    def write(self, row: Mapping[str, float | int]) -> None:
        """One point of each curve."""
        now, step = int(time.time() * 1000), int(row["epoch"])
        self._client.log_batch(
            self._run, metrics=[self._metric(key, float(value), now, step) for key, value in row.items()]
        )

    def close(self, final: Mapping[str, float], *, ended: str) -> None:
        """The final numbers as ``final.ap``, and how the run ended."""
        now = int(time.time() * 1000)
        if final:
            metrics = [self._metric(f"final.{key}", float(value), now, 0) for key, value in final.items()]
            self._client.log_batch(self._run, metrics=metrics)
        status = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[ended]
        self._client.set_terminated(self._run, status=status)


class WandB:
    """A run in project ``WANDB_PROJECT``, or "flexdetr"; with ``WANDB_MODE=offline`` no network is needed."""

    def __init__(self, story: TrackedRun) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=story.folder.name,
            dir=str(story.folder),
            id=story.known.get("id"),
            resume="allow" if story.known else None,
            config=dict(story.settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.place = {"id": str(self._run.id)}

    def write(self, row: Mapping[str, float | int]) -> None:
        """One point of each curve."""
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self, final: Mapping[str, float], *, ended: str) -> None:
        """The final numbers as the run's summary."""
        self._run.summary.update({f"final.{key}": value for key, value in final.items()})
        self._run.finish(exit_code=0 if ended == "done" else 1)


def check_installed(names: tuple[str, ...]) -> None:
    """Refuse trackers whose library is not here.

    Raises:
        ConfigError: naming what to install.
    """
    for name in names:
        missing = [module for module in TRACKERS[name].needs if importlib.util.find_spec(module) is None]
        if missing:
            raise ConfigError(
                f"log={name} needs {missing[0]}: install it with pip install 'flexdetr[{name}]', or leave {name} "
                "out of log"
            )


class Trackers:
    """The open trackers of a run, or none. One that fails is reported and closed; the training goes on."""

    def __init__(self, trackers: Mapping[str, Tracker] | None = None) -> None:
        self.open = dict(trackers or {})
        self.final: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("done" if kind is None else "failed" if issubclass(kind, Exception) else "stopped")

    def write(self, row: Mapping[str, float | int]) -> None:
        """A row of ``metrics.csv``; what is not a number, like the AP where no object counts, is left out."""
        numbers = {key: value for key, value in row.items() if math.isfinite(value)}
        for name in [*self.open]:
            self._try(name, lambda tracker: tracker.write(numbers))

    def finish(self, final: Mapping[str, float]) -> None:
        """The best checkpoint's numbers, for the end."""
        self.final = {key: value for key, value in final.items() if math.isfinite(value)}

    def end(self, ended: str) -> None:
        """Close all; ``ended`` is "done", "stopped" or "failed"."""
        for name in [*self.open]:
            self._try(name, lambda tracker: tracker.close(self.final, ended=ended))
        self.open.clear()

    def _try(self, name: str, work: Callable[[Tracker], None]) -> None:
        try:
            with run_state.random_state_kept():
                work(self.open[name])
        except (
            Exception
        ) as error:  # hours of training are worth more than a curve, whatever its library raises
            del self.open[name]
            _log.warning(
                "log=%s has failed and is closed; the training goes on, and metrics.csv has every number: %s",
                name,
                _reason(error),
            )


def kind(name: str) -> Callable[[TrackedRun], Tracker]:
    """The class of a row."""
    found: Callable[[TrackedRun], Tracker] = load_part(TRACKERS[name].place)
    return found


def open_trackers(config: Config, folder: Path, *, epochs: int) -> Trackers:
    """Open what ``config.log`` names; a run that is resumed goes on in the same place.

    Args:
        config: of the run.
        folder: of the run; ``trackers.json`` there says where its trackers are.
        epochs: rows of ``metrics.csv`` that a resumed run keeps.

    Raises:
        ConfigError: if one cannot be opened, with the reason; nothing has been trained then.
    """
    file = folder / FILE
    resumed = (folder / run_state.FILE).exists() and file.exists()
    known = json.loads(file.read_text(encoding="utf-8")) if resumed else {}
    settings = flattened(config.model_dump(mode="json"))
    trackers: dict[str, Tracker] = {}
    for name in config.log:
        try:
            with run_state.random_state_kept():
                trackers[name] = kind(name)(TrackedRun(folder, settings, epochs, known.get(name, {})))
        except Exception as error:  # whatever its library raises
            Trackers(trackers).end("failed")
            raise ConfigError(
                f"log={name} cannot be opened: {_reason(error)}; fix that, or leave {name} out of log"
            ) from error
    if trackers:
        places = {name: tracker.place for name, tracker in trackers.items()}
        write_whole(file, json.dumps(places, indent=2))
    return Trackers(trackers)


def flattened(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
