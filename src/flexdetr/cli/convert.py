"""The verb ``convert``: other projects' checkpoints to ours, and ours to transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.describe import AllowCode

_TARGETS = ("flexdetr", "transformers")


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A checkpoint, a folder of transformers', or hf://user/name."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write; a folder for --to transformers.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="KIND", help="Refuse any other kind of file, like paddle or ultralytics."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--to", metavar="flexdetr|transformers", help="What to write.")
    ] = "flexdetr",
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept missing and superfluous tensors.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Take the raw weights even if there are averaged ones.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="What the file does not say, like head.sampling=discrete."
        ),
    ] = None,
    _allowed: AllowCode = None,
) -> None:
    """Convert another project's checkpoint; no pickle is ever executed."""
    from flexdetr.config import nearest, parse_overrides
    from flexdetr.weights import store
    from flexdetr.weights.loading import load_any
    from flexdetr.weights.recognise import KINDS

    if kind is not None and kind not in KINDS:
        raise answers.UsageError(nearest(kind, KINDS, "kind of checkpoint"))
    if target not in _TARGETS:
        raise answers.UsageError(nearest(target, _TARGETS, "target"))
    overrides = parse_overrides(changes or ())
    if target == "transformers" and Path(source).is_file():
        _refuse_unknown_parts(Path(source))
    loaded = load_any(source, kind=kind, overrides=overrides, partial=partial, prefer="raw" if raw else "EMA")
    as_it_is = loaded.is_backbone and target == "flexdetr"
    state = loaded.state() if as_it_is else dict(loaded.build().state_dict())
    if target == "transformers":
        from flexdetr.weights.transformers_export import to_transformers

        eps = loaded.metadata.norm_eps
        written = to_transformers(
            state, loaded.config, loaded.classes, out, norm_eps=eps, metadata=loaded.traced()
        )
    else:
        written = store.save(out, state, loaded.traced())
    answers.show(str(loaded.report))
    answers.show(f"written: {written}")


def _refuse_unknown_parts(file: Path) -> None:
    """Refuse what transformers has no counterpart of before weights are read, where a file of ours says it."""
    from flexdetr.config import build
    from flexdetr.weights.container import sniff
    from flexdetr.weights.header import read_header
    from flexdetr.weights.store import is_ours, read_metadata
    from flexdetr.weights.transformers_export import refuse_parts

    if sniff(file) == "safetensors" and is_ours(read_header(file)):
        metadata = read_metadata(file)
        if metadata.part == "detector":
            refuse_parts(build(metadata.config))
