"""The report at the end of a run, and what only a process with torch knows of its machine."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil
import torch
import torchvision
from torch import Tensor

from flexdetr.config import to_yaml
from flexdetr.engine import state as run_state
from flexdetr.engine.device import precision_name
from flexdetr.engine.evaluate import Found, detect, found_by_all
from flexdetr.model.detector import DetectionModel
from flexdetr.model.fuse import fuse
from flexdetr.report.make import ReportContent
from flexdetr.tasks import Score, task
from flexdetr.weights import store

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

FILE = "report.html"


def report_run(run: Trainer, metrics: Score) -> None:
    """Write a finished run's report, and the best thresholds into its best checkpoint; all ranks call it.

    Each detects its share of the validation images; the first one then writes, however long that takes.

    Args:
        run: the run.
        metrics: of the best checkpoint.
    """
    # Not built from the file, which cannot name a backbone of the user's own.
    model = copy.deepcopy(run.ema.model)
    best = run.ranks.by_first(lambda: _load(run.folder / "best.safetensors", model), None)
    run.ranks.same_weights(model)
    found = detect(
        fuse(model),
        run.watchdog.each(run.val_loader, "the report is made"),
        device=run.device,
        dtype=run.dtype,
    )
    together = found_by_all(found, run.ranks)
    run.ranks.by_first(
        lambda: _write(run, metrics, together, *cast("tuple[State, store.Metadata]", best)),
        None,
        lambda: run.watchdog.beat("the first process writes the report"),
    )


State = dict[str, Tensor]


def _load(file: Path, model: DetectionModel) -> tuple[State, store.Metadata]:
    state, metadata = store.load(file)
    model.load_state_dict(state)
    return state, metadata


def _write(run: Trainer, metrics: Score, found: Found, state: State, metadata: store.Metadata) -> None:
    best = run.folder / "best.safetensors"
    subject = ReportContent(
        title=f"{run.config.model} on {run.dataset.root.name}",
        lead=f"The best checkpoint of {run.folder} (epoch {run.best_epoch}) on the validation split, "
        f"computed in {precision_name(run.dtype)}.",
        records=run.val_records,
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
    )
    path = run.folder / FILE
    again = f"the run is whole without it: flexdetr eval {best} {run.dataset.root} --split val --report FILE makes it"
    with run_state.trying_to_write(path, again):
        thresholds = task(run.config.task).write_report(path, subject)
        store.save(best, state, replace(metadata, thresholds=thresholds))


def machine_facts(device: torch.device) -> dict[str, str]:
    """Versions, and the most memory that this process has used."""
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
