"""The command line: one function for each verb, in files by what the verbs are about.

A verb is added with one function and one line in ``VERBS``. Heavy packages are imported inside the verbs:
``flexdetr --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from flexdetr import __version__
from flexdetr.cli import answers, describe
from flexdetr.cli.ablate import ablate
from flexdetr.cli.bench import bench
from flexdetr.cli.check import check
from flexdetr.cli.convert import convert
from flexdetr.cli.data import DATA_VERBS
from flexdetr.cli.demo import demo
from flexdetr.cli.evaluate import evaluate
from flexdetr.cli.export import export
from flexdetr.cli.predict import predict
from flexdetr.cli.prune import prune
from flexdetr.cli.search import search
from flexdetr.cli.serve import serve
from flexdetr.cli.track import track
from flexdetr.cli.train import train

VERBS: dict[str, Callable[..., Any]] = {
    "models": describe.models,
    "info": describe.info,
    "check": check,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "bench": bench,
    "convert": convert,
    "config": describe.config,
    "ablate": ablate,
    "search": search,
    "prune": prune,
    "serve": serve,
    "track": track,
    "demo": demo,
}
# Verbs of two words, by the first: what it is about, and its verbs.
GROUPS: dict[str, tuple[str, dict[str, Callable[..., Any]]]] = {
    "data": ("Convert, divide, merge, count and look at data sets.", DATA_VERBS),
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flexdetr {__version__}")
        raise typer.Exit


def _flexdetr(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details as well.")] = False,
) -> None:
    """Train, check, shrink and ship real-time end-to-end object detectors."""
    del version  # its callback has answered
    answers.start_logging(verbose=verbose)


def make_app() -> typer.Typer:
    """The application with every verb."""
    # Plain help pages: rich ones take twice the time to appear.
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback()(_flexdetr)
    for name, verb in VERBS.items():
        app.command(name)(verb)
    for name, (about, verbs) in GROUPS.items():
        group = typer.Typer(no_args_is_help=True, help=about, rich_markup_mode=None)
        for below, verb in verbs.items():
            group.command(below)(verb)
        app.add_typer(group, name=name)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what was typed after ``flexdetr``; None takes the process's own.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    answers.escape_odd_characters()
    try:
        make_app()(typed, prog_name="flexdetr")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(bool(done.code))
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status, text = answers.explain(error) or (1, answers.bug_report(error, typed))
        answers.note(text)
        return status
    return 0
