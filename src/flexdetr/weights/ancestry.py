"""Where weights come from: every ancestor with its licence, so that a trained checkpoint still tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flexdetr.weights.hub import digest
from flexdetr.weights.loading import Loaded
from flexdetr.weights.manifest import Published
from flexdetr.weights.recognise import KINDS
from flexdetr.weights.store import Metadata


def credited(loaded: Loaded, published: Published | None = None) -> Metadata:
    """A checkpoint's metadata with the checkpoint itself as the nearest ancestor.

    Args:
        loaded: what training starts from.
        published: the manifest's entry where it was fetched; it knows the licence, which few files name.
    """
    path = Path(loaded.report.file)
    nearest, *others = loaded.metadata.provenance or [{}]
    if loaded.report.title == KINDS["flexdetr"] or not nearest:  # ours lists its ancestors, not itself
        others = [nearest, *others] if nearest else []
        nearest = {
            "source": f"{loaded.report.title} {loaded.metadata.model}",
            "file": path.name,
            "licence": loaded.metadata.licence,
        }
    facts: dict[str, Any] = {"sha256": digest(path)} if path.is_file() else {}
    if published is not None:
        facts |= {"licence": published.licence, "address": published.address}
    licence = published.licence if published is not None else loaded.metadata.licence
    return replace(loaded.metadata, licence=licence, provenance=[{**nearest, **facts}, *others])
