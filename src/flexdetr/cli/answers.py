"""How the command line answers: tables, JSON, log lines, and errors in a sentence with an exit status."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import platform
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from flexdetr import __version__
from flexdetr.runtime.formats import FORMATS

if TYPE_CHECKING:
    from flexdetr.tasks import Score

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 10.0
_LONGEST_REASON = 300  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Packages that the base install leaves out -> the extra that brings them.
_EXTRAS = {
    **dict.fromkeys(
        (
            "torch",
            "torchvision",
            "timm",
            "scipy",
            "safetensors",
            "huggingface_hub",
            "psutil",
        ),
        "train",
    ),
    **{package: row.extra for row in FORMATS.values() for package in row.packages},
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client", "python_multipart"), "serve"),
    "cv2": "video",
    "trackers": "track",
    "optuna": "search",
    "torch_pruning": "prune",
    "supervision": "supervision",
    "pyarrow": "parquet",
    "sahi": "sahi",
}
# Wrong usage, by the name of the package's exception; every other one is a failure.
_USAGE_ERRORS = {"ConfigError", "ClassError", "UnrecognisedDataError"}


class UsageError(Exception):
    """Options that do not go together; exit status 2."""


def explain(error: Exception) -> tuple[int, str] | None:
    """The exit status and the text for an error that is expected, or None for a defect of ours.

    Expected are the package's own exceptions, told apart by the module that defines them (asking for the classes would
    import torch), what the operating system refuses, and an extra that is not installed.
    """
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRAS:
            return (
                1,
                f"Error: this needs {missing}: install it with pip install 'flexdetr[{_EXTRAS[missing]}]'",
            )
        return None
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return 1, f"Error: {error.strerror}" if name is None else f"Error: {name}: {error.strerror}"
    kind = type(error)
    if kind.__module__.partition(".")[0] != "flexdetr":
        return None
    usage = kind is UsageError or any(base.__name__ in _USAGE_ERRORS for base in kind.__mro__)
    return (2 if usage else 1), f"Error: {error}"


def bug_report(error: Exception, arguments: Sequence[str]) -> str:
    """The text for a defect of ours: what a report of it needs is in a file, whose place is said.

    Args:
        error: that nothing expected.
        arguments: what was typed after ``flexdetr``.
    """
    content = (
        f"flexdetr {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join(['flexdetr', *arguments])}\n\n{''.join(traceback.format_exception(error))}"
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="flexdetr-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(content)
    except OSError:  # a full disk, for instance
        place = f"is:\n{content}"
    else:
        place = f"is in {file.name}"
    said = next(iter(str(error).splitlines()), "")[:_LONGEST_REASON]
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"Error: this is a bug in FlexDETR ({reason}); please report it: the traceback {place}"


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the moment: a progress bar replaces it to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(_visible(self.format(record)) + "\n")


def start_logging(*, verbose: bool) -> None:
    """Send the library's messages to stderr, so that stdout holds nothing but the answer."""
    logger = logging.getLogger("flexdetr")
    for former in [*logger.handlers]:  # a second call in one process, in tests for instance
        logger.removeHandler(former)
    # What only details tell is not even counted where nobody reads it.
    level = logging.INFO if verbose else logging.WARNING
    logger.setLevel(level)
    handler = _Stderr()
    handler.setLevel(level)  # a run's own log lowers the logger's
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def escape_odd_characters() -> None:
    """Write what stdout's encoding lacks as an escape: a file's name can hold anything, and must not end a command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """One line or paragraph of the answer."""
    typer.echo(_visible(text))


def note(text: str) -> None:
    """One line beside the answer: on stderr, so that ``--json`` stays one document."""
    typer.echo(_visible(text), err=True)


def _visible(text: str) -> str:
    """Control characters as escapes: what a file names is shown, and does not steer the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how many of how many are done: a bar on a terminal, now and then a line elsewhere; both on stderr.

    How many there are is None if nobody knows; and nobody knew if more are done, as where a film is one of the sources.
    """
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

        from flexdetr.progress import progress_bar

        columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with progress_bar(*columns, transient=True) as bar:
            task = bar.add_task(what, total=None)
            # rich takes None as "as before": a film's bar is full.
            yield lambda done, total: bar.update(task, completed=done, total=max(done, total or 0))
        return
    said = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal said
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            note(f"{what}: {done}" if total is None or done > total else f"{what}: {done} of {total}")

    yield line


def progress(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with their progress shown as ``counting`` does."""
    with counting(what) as show_count:
        for number, item in enumerate(items, start=1):
            yield item
            show_count(number, len(items))


def show_json(document: object) -> None:
    """The answer as one JSON document; what is not a finite number becomes null."""
    typer.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: framed in a terminal, aligned plain text elsewhere.

    Numbers are set to the right; a header of empty names is left out.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(header_style="bold", show_header=any(columns))
        for name, numeric in zip(columns, right, strict=True):
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*row)
        Console(markup=False, emoji=False).print(table)
        return
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [list(columns)] * any(columns) + cells:
        aligned = (
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(row, widths, right, strict=True)
        )
        typer.echo("  ".join(aligned).rstrip())


def show_metrics(metrics: Score) -> None:
    """The numbers, then each class's own, as tables, and what computed them."""
    for columns, rows in metrics.tables():
        show_table(columns, rows)
    if metrics.computation is not None:
        show(f"computed with {metrics.computation.describe()}")


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return _visible(str(value))
