"""Detection: boxes in COCO, VOC or YOLO data, the COCO numbers, a page of curves and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexdetr.data.detect import read

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.config import Config
    from flexdetr.data.batches import SampleMaker
    from flexdetr.data.dataset import Record
    from flexdetr.metrics.coco_map import Metrics
    from flexdetr.metrics.flat_arrays import FoundByImage
    from flexdetr.report.make import ReportContent

__all__ = ["read", "samples", "score", "score_of", "write_report"]


def samples(records: Sequence[Record], config: Config, seed: int) -> SampleMaker:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.data.batches import SampleMaker

    return SampleMaker(records, config.data, config.image_size, seed)


def score(records: Sequence[Record], found: FoundByImage, classes: Classes) -> Metrics:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.metrics.coco_map import evaluate

    return evaluate(records, found, classes)


def score_of(content: Mapping[str, Any]) -> Metrics:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.metrics.coco_map import Metrics

    return Metrics.from_json(content)


def write_report(path: Path, subject: ReportContent) -> dict[str, float]:
    """See ``flexdetr.tasks.Task``."""
    from flexdetr.report.make import write_report

    return write_report(path, subject)
