"""Artifacts of files that tests made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexdetr.runtime.artifact import (
    Artifact,
    ArtifactMetadata,
    Input,
    Outputs,
    describe_files,
    write_metadata,
)


def described(
    folder: Path,
    files: Sequence[str],
    *,
    size: tuple[int, int] = (32, 64),
    resize: str = "inside",
    names: tuple[str, ...] = ("boxes", "scores", "labels"),
    top: int = 1,
    classes: dict[int, str] | None = None,
    **more: Any,
) -> Artifact:
    """The artifact of a folder's files, of format "openvino" unless told otherwise; its metadata is written beside."""
    metadata = ArtifactMetadata(
        format=more.pop("format", "openvino"),
        classes=[{"id": number, "name": name} for number, name in (classes or {5: "picture"}).items()],
        input=Input(size=size, resize=resize),
        outputs=Outputs(names=names, box_format="xyxy pixels of the original picture", top=top),
        files=describe_files(folder, list(files)),
        **more,
    )
    return write_metadata(folder, metadata)
