"""Orientation: a folder of upright pages, seen in all four turns; scored and shown as any classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexdetr.data.page_folder import read
from flexdetr.tasks.classify import score, score_of, write_report

if TYPE_CHECKING:
    from flexdetr.config import Config
    from flexdetr.data.dataset import Record
    from flexdetr.data.page_samples import PageSamples

__all__ = ["read", "samples", "score", "score_of", "write_report"]


def samples(records: Sequence[Record], config: Config, seed: int) -> PageSamples:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.data.page_samples import PageSamples

    return PageSamples(records, config.data, config.image_size, seed)
