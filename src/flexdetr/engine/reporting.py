"""The report at the end of a run, and what only a process with torch knows of its machine."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from torch import Tensor

from flexdetr.config import to_yaml
from flexdetr.engine import state as run_state
from flexdetr.engine.device import precision_name
from flexdetr.engine.evaluate import detect, found_by_all
from flexdetr.files import write_whole
from flexdetr.metrics.flat_arrays import FoundByImage
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.model.size import num_parameters
from flexdetr.report.make import ReportContent, cost, training_charts
from flexdetr.report.page import page
from flexdetr.tasks import Score, task
from flexdetr.weights import store
from flexdetr.weights.container import WeightsError

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

_log = logging.getLogger(__name__)

FILE = "report.html"
_RENEWED = 30  # seconds after which a browser reads the page of a run that goes on again
_BESIDE = 20  # other runs that a report lists


def report_progress(run: Trainer) -> None:
    """Write the page of a run that goes on: its curves so far. The report takes its place at the end."""
    if not run.config.train.report:
        return
    path = run.folder / FILE
    text = page(
        f"{run.config.model} on {run.dataset.root.name}",
        f"Epoch {run.epoch} of {run.config.train.epochs}. This page reloads while the run goes on; at its end "
        "the report takes its place.",
        {"Training": training_charts(run.folder / "metrics.csv")},
        refresh=_RENEWED,
    )
    with run_state.trying_to_write(path, "the run goes on without it"):
        write_whole(path, text)


def report_run(run: Trainer, metrics: Score) -> None:
    """Write a finished run's report, and the best thresholds into its best checkpoint; all ranks call it.

    Each detects its share of the validation images; the first one then writes, however long that takes.
    """
    # Not built from the file, which cannot name a backbone of the user's own.
    model = copy.deepcopy(run.ema.model)
    best = run.ranks.by_first(lambda: _load(run.folder / "best.safetensors", model), None)
    run.ranks.same_weights(model)
    began = time.perf_counter()
    found = detect(
        fuse(model),
        run.watchdog.each(run.val_loader, "the report is made"),
        device=run.device,
        dtype=run.dtype,
    )
    together = found_by_all(found, run.ranks)
    seconds = time.perf_counter() - began
    run.ranks.by_first(
        lambda: _write(run, metrics, together, seconds, *cast("tuple[State, store.Metadata]", best)),
        None,
        lambda: run.watchdog.beat("the first process writes the report"),
    )


State = dict[str, Tensor]


def _load(file: Path, model: DetectionModel) -> tuple[State, store.Metadata]:
    state, metadata = store.load(file)
    model.load_state_dict(state)
    return state, metadata


def _write(
    run: Trainer, metrics: Score, found: FoundByImage, seconds: float, state: State, metadata: store.Metadata
) -> None:
    best = run.folder / "best.safetensors"
    subject = ReportContent(
        title=f"{run.config.model} on {run.dataset.root.name}",
        lead=f"The best checkpoint of {run.folder} (epoch {run.best_epoch}) on {run.validation}, "
        f"computed in {precision_name(run.dtype)}.",
        records=run.scored_records,
        found=found,
        classes=run.classes,
        metrics=metrics,
        splits=run.dataset.splits,
        config=to_yaml(run.config),
        facts={
            "device": str(run.device),
            "precision": precision_name(run.dtype),
            "processes": str(run.ranks.size),
            "training time": f"{run.seconds / 60:.1f} min",
            "steps": f"{run.steps:,}",
            **machine_facts(run.device),
        },
        history=run.folder / "metrics.csv",
        cost=cost(
            parameters=num_parameters(run.ema.model),
            num_bytes=best.stat().st_size,
            seconds=seconds,
            images=len(run.scored_records),
        ),
        beside=runs_beside(best, metadata, task(run.config.task).score_of),
    )
    path = run.folder / FILE
    again = f"the run is complete without it; flexdetr eval {best} {run.dataset.root} --split val --report makes it"
    with run_state.trying_to_write(path, again):
        thresholds = task(run.config.task).write_report(path, subject)
        store.save(best, state, replace(metadata, thresholds=thresholds))


def runs_beside(
    best: Path, metadata: store.Metadata, score_of: Callable[[Mapping[str, Any]], Score]
) -> list[tuple[object, ...]]:
    """What the runs in the same folder reached that have the same classes, this one among them; the best first.

    Returns:
        Rows of a table, the first one its header; nothing if there is no other run.
    """
    rows: list[tuple[object, ...]] = []
    measures: tuple[str, ...] = ()
    own = metadata.training["validation"]
    for file in sorted(best.parent.parent.glob(f"*/{best.name}")):
        try:
            other = store.read_metadata(file)
        except (OSError, WeightsError) as error:
            _log.info("%s is not listed in the report: %s", file, error)
            continue
        scores = other.training.get("validation", {})
        if other.classes != metadata.classes or scores.keys() != own.keys():  # another task has other scores
            continue
        score = score_of(scores)
        measures = score.measures
        size = "x".join(map(str, other.image_size))
        minutes = other.training.get("seconds", 0) / 60
        rows.append((file.parent.name, other.model, size, scores["epoch"], *score.pair, f"{minutes:.1f}"))
    if len(rows) < 2:
        return []
    rows.sort(key=lambda row: -cast("float", row[4]))
    return [("run", "model", "pixels", "best epoch", *measures, "minutes until then"), *rows[:_BESIDE]]


def machine_facts(device: torch.device) -> dict[str, str]:
    """Versions, and the most memory that this process has used."""
    import torchvision

    facts = {"PyTorch": torch.__version__, "torchvision": torchvision.__version__}
    facts["peak memory"] = f"{_peak_memory() / 2**20:,.0f} MiB"
    if device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(device)
        facts["peak GPU memory"] = f"{torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"
    return facts


def _peak_memory() -> int:
    """The most bytes of memory that this process has used."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
