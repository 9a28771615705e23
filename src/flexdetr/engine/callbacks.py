"""The user's own code at four moments of a run: after a step, an epoch, an evaluation, and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flexdetr.config import ConfigError, nearest

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer
    from flexdetr.model.detector import DetectionModel
    from flexdetr.tasks import Score

HOOKS = ("on_step", "on_epoch", "on_evaluation", "on_end")


class CallbackError(RuntimeError):
    """A callback failed; the message names it and the moment. What the run saved before is intact."""


@dataclass(frozen=True, eq=False)
class Moment:
    """Where a run is.

    Attributes:
        step: optimisation steps that are done.
        steps: of the whole run.
        epoch: epochs that are done.
        epochs: of the whole run.
        lr: the detector's learning rate.
        loss: of this step, or the mean of the epoch.
        numbers: of the epoch, as in ``metrics.csv``; empty after a step.
        metrics: after an evaluation and at the end (then the best checkpoint's).
        folder: of the run.
        model: the averaged weights, which are evaluated and saved; to be read only.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    lr: float
    loss: float
    numbers: Mapping[str, float]
    metrics: Score | None
    folder: Path
    model: DetectionModel


class Callbacks:
    """Calls the user's callbacks in the first of the processes that train together.

    Args:
        given: objects with any of ``on_step``, ``on_epoch``, ``on_evaluation`` and ``on_end``; each takes a ``Moment``.

    Raises:
        ConfigError: for an object that has none of these methods, or another one whose name begins with ``on_``.
    """

    def __init__(self, given: Sequence[object] = ()) -> None:
        for one in given:
            hooks = [name for name in dir(one) if name.startswith("on_") and callable(getattr(one, name))]
            for name in hooks:
                if name not in HOOKS:
                    raise ConfigError(f"callback {_name(one)}: {nearest(name, HOOKS, 'method')}")
            if not hooks:
                raise ConfigError(f"callback {_name(one)} has none of the methods {', '.join(HOOKS)}")
        self.given = tuple(given)

    def call(
        self,
        hook: str,
        run: Trainer,
        *,
        loss: float = 0.0,
        numbers: Mapping[str, float] | None = None,
        metrics: Score | None = None,
    ) -> None:
        """Call what has this method, in the order in which they were given; the other processes wait.

        Raises:
            CallbackError: if one fails, in all processes.
        """
        wanted = [one for one in self.given if hasattr(one, hook)]
        if not wanted:
            return
        done = run.epoch * run.steps_per_epoch + run.batch_index
        moment = Moment(
            step=done,
            steps=run.steps,
            epoch=run.epoch,
            epochs=run.config.train.epochs or 0,
            lr=run.optimizer.param_groups[-1]["lr"],
            loss=loss,
            numbers=dict(numbers or {}),
            metrics=metrics,
            folder=run.folder,
            model=run.ema.model,
        )

        def work() -> None:
            for one in wanted:
                try:
                    getattr(one, hook)(moment)
                except Exception as error:
                    raise CallbackError(
                        f"callback {_name(one)}.{hook} failed at epoch {run.epoch + (hook == 'on_step')}, step {done}: "
                        f"{type(error).__name__}: {error}; fix it, and continue with: flexdetr train --resume "
                        f"{run.folder}"
                    ) from error

        run.ranks.by_first(work, None)


def _name(one: object) -> str:
    return one.__name__ if isinstance(one, type) else type(one).__name__
