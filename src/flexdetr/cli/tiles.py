"""The options that make a detector look at pictures in tiles."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flexdetr.cli import answers

Side = Annotated[
    int | None,
    typer.Option(
        "--slice",
        metavar="PIXELS",
        min=32,
        help="Predict in tiles of this many pixels, and on the whole picture.",
    ),
]
Overlap = Annotated[
    float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Share of a tile that the next one repeats.")
]
Merge = Annotated[
    str,
    typer.Option(metavar="nms|fusion", help="How boxes of one object from several tiles are merged."),
]


def in_tiles(detector: Any, side: int | None, overlap: float, merge: str) -> Any:  # noqa: ANN401 - a detector
    """The detector, or where tiles are asked for, one that looks at pictures in tiles."""
    if side is None:
        return detector
    from flexdetr.classifier import Classifier

    if isinstance(detector, Classifier):
        raise answers.UsageError("--slice is for detectors; a classifier looks at the whole picture")
    from flexdetr.runtime.slicing import Slicing
    from flexdetr.sliced import SlicedDetector

    try:
        slicing = Slicing(side, overlap, merge)  # type: ignore[arg-type]  # it answers others
    except ValueError as error:
        raise answers.UsageError(str(error)) from error
    return SlicedDetector(detector, slicing)
