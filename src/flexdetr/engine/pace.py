"""How long a run will take, from its own first steps; only the clock is read, so the run stays the same."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

_SECONDS, _STEPS, _LEAST = (
    20.0,
    50,
    3,
)  # enough is measured after these seconds or steps, but not before so many
_FORWARD = 1 / 3  # of a training image's time: no backward pass
_NEWS = 0.1  # an estimate is told again where an evaluation's real time changes it by this share


class Pace:
    """Estimates a run's duration once enough of its steps are measured, and again after its first evaluation.

    The first step is not measured: it starts the loader's workers and compiles what is compiled.

    Args:
        steps: still to come.
        evaluations: still to come.
        evaluation: an evaluation's images relative to those of a step.
    """

    def __init__(self, steps: int, evaluations: int, evaluation: float) -> None:
        self.steps, self.evaluations = steps, evaluations
        self.per_evaluation = evaluation * _FORWARD  # in steps, until one is measured
        self.measured, self.seconds = 0, 0.0
        self._told: float | None = None
        self._last: float | None = None

    @classmethod
    def of_run(cls, run: Trainer) -> Self:
        """Of what a run has still to do."""
        epochs, every = run.config.train.epochs or 1, run.config.train.eval_every or 1
        evaluations = -(-epochs // every) - run.epoch // every  # the last epoch is always evaluated
        done = run.epoch * run.steps_per_epoch + run.batch_index
        return cls(
            run.steps - done, evaluations, len(run.scored_records) / int(run.config.train.batch_size or 1)
        )

    def step(self) -> str | None:
        """A step is done; a sentence once that is enough."""
        now = time.monotonic()
        self.steps -= 1
        if self._last is not None:
            self.measured += 1
            self.seconds += now - self._last
        self._last = now
        enough = self.measured >= _LEAST and (self.seconds >= _SECONDS or self.measured >= _STEPS)
        return self._tell() if enough and self._told is None else None

    def epoch(self) -> str | None:
        """An epoch's steps are done: whatever is measured must do. The time until the next step is no step's."""
        self._last = None
        return self._tell() if self.measured and self._told is None and self.steps else None

    def evaluated(self, seconds: float) -> str | None:
        """An evaluation is done; a sentence where it changes the estimate."""
        self.evaluations -= 1
        if not self.measured or self._told is None:
            return None
        told = self.left
        self.per_evaluation = seconds * self.measured / max(1e-9, self.seconds)
        changed = abs(self.left - told) > _NEWS * told
        return self._tell() if changed and self.steps else None

    @property
    def left(self) -> float:
        """Seconds until the end of the run."""
        return self.seconds / self.measured * (self.steps + self.evaluations * self.per_evaluation)

    def _tell(self) -> str:
        self._told = self.left
        end = datetime.now().astimezone() + timedelta(seconds=self.left)
        return (
            f"about {self.seconds / self.measured:.2f} s a step: {duration(self.left)} to go, evaluations included, "
            f"until about {end:%Y-%m-%d %H:%M}"
        )


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    Example:
        >>> duration(8000), duration(95.4)
        ('2 h 13 min', '1 min 35 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
