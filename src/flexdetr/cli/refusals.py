"""Options that would have no effect on what was asked for are refused by name, not ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import typer

from flexdetr.cli import answers

# Which frames of what gives many are read, and how often a stream that broke is opened again.
OF_FRAMES = ("every", "start", "end")
OF_STREAMS = ("reconnect",)
# What is found, and how it is written: of detectors, not of classifiers.
OF_DETECTORS = (
    "threshold",
    "decoder_layers",
    "queries",
    "score",
    "iou",
    "max_detections",
    "data",
    "draw",
    "show",
    "explained",
    "tile",
    "overlap",
    "merge",
)
_OF_TILES = ("overlap", "merge")
# All that setting documents upright listens to.
OF_UPRIGHT = ("file", "sources", "threshold", "upright", "device", "precision", "runtime", "as_json")


def typed(context: typer.Context) -> dict[str, str]:
    """The options that stand on the command line, by the name of their parameter, as they are written."""
    written = {}
    for one in context.command.params:
        source = None if one.name is None else context.get_parameter_source(one.name)
        if one.name is not None and source is not None and source.name == "COMMANDLINE":
            written[one.name] = next((text for text in one.opts if text.startswith("--")), one.name)
    return written


def refuse(context: typer.Context, unused: Iterable[str], why: str, also: Iterable[str] = ()) -> None:
    """Refuse what has no effect here.

    Args:
        context: of the verb.
        unused: names of parameters.
        why: stands behind the options' names.
        also: further options, as they are written.

    Raises:
        UsageError: if one of them was typed.
    """
    written = typed(context)
    wrong = [*also, *(written[name] for name in unused if name in written)]
    if wrong:
        raise answers.UsageError(f"{' and '.join(wrong)}: {why}")


def refuse_others(context: typer.Context, used: Collection[str], why: str) -> None:
    """Refuse all options but those that have an effect here; ``--allow-code`` always has."""
    refuse(context, [name for name in typed(context) if name not in used and name != "_allowed"], why)


def refuse_of_tiles(context: typer.Context, side: int | None) -> None:
    """Refuse options of ``--slice`` where it is not given.

    Raises:
        UsageError: if one of them was typed.
    """
    if side is None:
        refuse(context, _OF_TILES, "only with --slice PIXELS, which looks at pictures in tiles")
