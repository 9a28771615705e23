"""Where a run's numbers go: a CSV file always, the terminal, and the run's log file."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flexdetr.engine.state import trying_to_write, writing
from flexdetr.files import replacing
from flexdetr.progress import progress_bar

_log = logging.getLogger(__name__)


class CsvSink:
    """``metrics.csv``: one row an epoch. A resumed run drops the rows of epochs that are run again."""

    def __init__(self, path: Path, *, keep_epochs: int = 0) -> None:
        self.path = path
        self.rows = _rows(path, keep_epochs) if keep_epochs and path.exists() else []

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add an epoch; the file is replaced by a whole new one, since evaluation columns come and go.

        Where that fails, it is said: on Windows a program that shows the file may hold it.
        """
        self.rows.append({key: _text(value) for key, value in row.items()})
        columns = list(dict.fromkeys(key for known in self.rows for key in known))
        with (
            trying_to_write(self.path, "its rows are written with the next epoch's"),
            replacing(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def _rows(path: Path, epochs: int) -> list[dict[str, str]]:
    """The rows of the first epochs. They are a record, not a part of the state: a damaged one stops no run."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file, strict=True) if int(row["epoch"]) <= epochs]
        for row in rows:
            for value in filter(None, row.values()):
                float(value)
        return rows
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
        path.replace(aside)
        _log.warning(
            "%s cannot be read (%s): it is kept as %s, and the new one starts at epoch %d",
            path,
            error,
            aside.name,
            epochs + 1,
        )
        return []


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
        self.progress = progress_bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            quiet=quiet,
            period=120,
        )
        self.task = self.progress.add_task("training", total=steps, completed=done, numbers="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, numbers: str) -> None:
        """One optimisation step is done."""
        self.progress.update(self.task, advance=1, numbers=numbers)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.progress.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Everything that the package logs inside goes to ``path`` too."""
    with writing(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def give_up(_record: logging.LogRecord) -> None:
        """Say once that the file takes no more; logging's own answer is a traceback for each line."""
        handler.setLevel(logging.CRITICAL + 1)
        _log.warning("cannot write %s: %s; the run goes on without its log", path, sys.exc_info()[1])

    handler.handleError = give_up  # type: ignore[method-assign, assignment]
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
        with trying_to_write(path, "its last lines may be missing"):
            handler.close()
