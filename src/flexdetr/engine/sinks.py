"""Where a run's numbers go: a CSV file always, the terminal, and the run's log file."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class CsvSink:
    """``metrics.csv``: one row an epoch. A resumed run drops the rows of epochs that are run again."""

    def __init__(self, path: Path, *, keep_epochs: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if keep_epochs and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= keep_epochs]

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add an epoch; the file is rewritten whole, since evaluation columns come and go."""
        self.rows.append({key: _text(value) for key, value in row.items()})
        columns = list(dict.fromkeys(key for known in self.rows for key in known))
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class TrainingDisplay:
    """A progress bar on a terminal, plain lines elsewhere.

    Args:
        steps: optimisation steps of the whole run.
        done: steps that a resumed run has behind it.
        quiet: show nothing.
    """

    def __init__(self, steps: int, done: int = 0, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=120,
        )
        self.task = self.progress.add_task("training", total=steps, completed=done, numbers="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, numbers: str) -> None:
        """One optimisation step is done."""
        self.progress.update(self.task, advance=1, numbers=numbers)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Everything that the package logs inside goes to ``path`` too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("flexdetr")
    former = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(former)
        logger.removeHandler(handler)
        handler.close()
