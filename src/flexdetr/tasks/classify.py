"""Classification: a folder of pictures for each class, top-1 and top-5, a page of confusion and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexdetr.data.class_folders import read

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.config import Config
    from flexdetr.data.class_samples import ClassSamples
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.classification import ClassMetrics
    from flexdetr.metrics.flat_arrays import FoundByImage
    from flexdetr.report.make import ReportContent

__all__ = ["read", "samples", "score", "score_of", "write_report"]


def samples(records: Sequence[Record], config: Config, seed: int) -> ClassSamples:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.data.class_samples import ClassSamples

    return ClassSamples(records, config.data, config.image_size, seed)


def score(records: Sequence[Record], found: FoundByImage, classes: Classes) -> ClassMetrics:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.metrics.classification import evaluate

    return evaluate(records, found, classes)


def score_of(content: Mapping[str, Any]) -> ClassMetrics:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.metrics.classification import ClassMetrics

    return ClassMetrics.from_json(content)


def write_report(path: Path, subject: ReportContent) -> dict[str, float]:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.report.class_page import write_class_report

    return write_class_report(path, subject)
