"""Where FlexDETR keeps what it can fetch or make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$FLEXDETR_CACHE``, else ``flexdetr`` in the user's cache folder."""
    if own := os.environ.get("FLEXDETR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexdetr"
