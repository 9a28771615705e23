"""The progress bar of trainings, downloads and commands: on stderr, and on a terminal only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def progress_bar(
    *columns: str | ProgressColumn, quiet: bool = False, transient: bool = False, period: float = 30.0
) -> Progress:
    """A bar on stderr; ``disable`` tells that no terminal shows it, and its ``console`` prints lines in either case.

    Args:
        columns: as rich has them.
        quiet: show nothing, lines neither.
        transient: the bar goes away at its end.
        period: seconds over which the speed is estimated.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, quiet=quiet)
    return Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=transient,
        speed_estimate_period=period,
    )
