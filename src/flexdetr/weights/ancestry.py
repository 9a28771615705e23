"""Where weights come from: every ancestor with its licence, so that a trained checkpoint still tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flexdetr.files import sha256
from flexdetr.weights.loading import Loaded
from flexdetr.weights.recognise import KINDS
from flexdetr.weights.store import Metadata


def with_ancestor(loaded: Loaded) -> Metadata:
    """A checkpoint's metadata with the checkpoint itself as the nearest ancestor."""
    path = Path(loaded.report.file)
    nearest, *others = loaded.metadata.provenance or [{}]
    if loaded.report.title == KINDS["flexdetr"] or not nearest:  # ours lists its ancestors, not itself
        others = [nearest, *others] if nearest else []
        nearest = {
            "source": f"{loaded.report.title} {loaded.metadata.model}",
            "file": path.name,
            "licence": loaded.metadata.licence,
        }
    facts: dict[str, Any] = {"sha256": sha256(path)} if path.is_file() else {}
    return replace(loaded.metadata, provenance=[{**nearest, **facts}, *others])
