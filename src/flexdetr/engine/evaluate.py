"""Run a detector over records and score it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from flexdetr.classes import Classes
from flexdetr.config import Config, to_yaml
from flexdetr.data.check import read_as, usable_records
from flexdetr.data.dataset import Record
from flexdetr.data.loader import Batch, EvaluationLoader
from flexdetr.engine.device import arithmetic, autocast, choose_device, choose_precision, computation
from flexdetr.engine.distributed import Ranks
from flexdetr.metrics.flat_arrays import FoundByImage, FoundInImage
from flexdetr.model.detector import DetectionModel
from flexdetr.model.postprocess import most
from flexdetr.model.size import num_parameters
from flexdetr.report.make import ReportContent, cost
from flexdetr.tasks import DEFAULT, Score, task

_ALONE = Ranks()


@torch.inference_mode()
def detect(
    model: DetectionModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    decoder_layers: int | None = None,
    queries: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> FoundByImage:
    """The detections of every image, before any threshold.

    The model is moved to ``device`` and put in evaluation mode; None runs the configured layers and queries.

    Returns:
        ``{image id: (boxes xyxy in pixels (K, 4), clipped to the image, scores (K,), head indices (K,))}``.
    """
    model.eval().to(device)
    found: dict[int | str, FoundInImage] = {}
    for batch in batches:
        images = model.normalise(batch.images.to(device, non_blocking=True))
        with arithmetic(device), autocast(device, dtype):
            output = model(images, decoder_layers=decoder_layers, queries=queries)
        sizes = batch.sizes.to(device, non_blocking=True)
        # What is scored is what "predict" and an artifact answer.
        answers = model.head.answer(output.final, sizes, most(model.head))
        boxes, scores, labels = (part.cpu().numpy() for part in answers)
        # A batch is filled up with 0 where suppression left fewer boxes of an image; a NaN stays, to be reported.
        there = ~(scores <= 0)
        for i, image_id in enumerate(batch.image_ids):
            found[image_id] = boxes[i, there[i]], scores[i, there[i]], labels[i, there[i]]
        if progress is not None:
            progress(len(found))
    return found


def evaluate_split(
    model: DetectionModel,
    data: str | Path,
    split: str,
    *,
    classes: Classes,
    config: Config,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 8,
    decoder_layers: int | None = None,
    queries: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Path | None = None,
    title: str = "",
) -> Score:
    """Read a data set and score a detector on one of its splits; see ``Detector.evaluate``.

    ``report`` is a page to write, and ``title`` what stands above it.
    """
    row = task(config.task)
    dataset = read_as(config, data, classes)
    dataset.split(split)  # a missing split is named before anything is read
    records = usable_records(dataset, split, skip_bad=config.data.skip_bad)
    place = choose_device(device)
    dtype = choose_precision(precision, place)
    began = time.perf_counter()
    found = detect(
        model,
        EvaluationLoader(
            records,
            config.image_size,
            batch_size,
            config.data.workers,
            pin_memory=place.type == "cuda",
        ),
        device=place,
        dtype=dtype,
        decoder_layers=decoder_layers,
        queries=queries,
        progress=None if progress is None else lambda done: progress(done, len(records)),
    )
    seconds = time.perf_counter() - began
    how = computation(place, dtype)
    metrics: Score = replace(row.score(records, found, classes), computation=how)  # type: ignore[type-var]
    if report is not None:
        lead = f"The {split} split of {data}, computed with {how.runtime} on {how.device} in {how.precision}."
        about = ReportContent(
            title,
            lead,
            records,
            found,
            classes,
            metrics,
            dataset.splits,
            to_yaml(config),
            cost=cost(parameters=num_parameters(model), seconds=seconds, images=len(records)),
        )
        row.write_report(report, about)
    return metrics


def evaluate(
    model: DetectionModel,
    records: Sequence[Record],
    classes: Classes,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kind: str = DEFAULT,
    ranks: Ranks = _ALONE,
    beat: Callable[[], None] | None = None,
) -> Score:
    """The numbers of a model of a task on records; the ranks' ``batches`` together must cover exactly these.

    The first rank scores, and the others call ``beat`` until it has.
    """
    found = found_by_all(detect(model, batches, device=device, dtype=dtype), ranks)
    metrics = ranks.by_first(lambda: task(kind).score(records, found, classes), None, beat)
    return ranks.from_first(cast("Score", metrics))


def found_by_all(found: FoundByImage, ranks: Ranks) -> FoundByImage:
    """Every rank's detections together."""
    return {image_id: entry for part in ranks.gathered(found) for image_id, entry in part.items()}
