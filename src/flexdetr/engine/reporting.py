"""The report at the end of a run, and what only a process with torch knows of its machine."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import torch
import torchvision

from flexdetr.config import to_yaml
from flexdetr.data.loader import EvaluationLoader
from flexdetr.engine import state as run_state
from flexdetr.engine.evaluate import detect
from flexdetr.metrics.coco_map import Metrics
from flexdetr.model.fuse import fuse
from flexdetr.report.make import Subject, write_report
from flexdetr.weights import store

if TYPE_CHECKING:
    from flexdetr.engine.trainer import Trainer

FILE = "report.html"


def report_run(run: Trainer, metrics: Metrics) -> None:
    """Write a finished run's report, and the best thresholds into its best checkpoint.

    Args:
        run: the run, on its first rank.
        metrics: of the best checkpoint.
    """
    best = run.folder / "best.safetensors"
    loader = run.val_loader
    batches = EvaluationLoader(
        run.val_records,
        loader.image_size,
        loader.batch_size,
        loader.threads,
        pin_memory=run.device.type == "cuda",
    )
    state, metadata = store.load(best)
    # Not built from the file, which cannot name a backbone of the user's own.
    model = copy.deepcopy(run.ema.model)
    model.load_state_dict(state)
    found = detect(
        fuse(model),
        run.watchdog.each(batches, "the report is made"),
        device=run.device,
        dtype=run.dtype,
    )
    subject = Subject(
        title=f"{run.config.model} on {run.dataset.root.name}",
        lead=f"The best checkpoint of {run.folder} (epoch {run.best_epoch}) on the validation split.",
        records=run.val_records,
        found=found,
        classes=run.classes,
        metrics=metrics,
        splits=run.dataset.splits,
        config=to_yaml(run.config),
        facts={
            "device": str(run.device),
            "precision": str(run.dtype).removeprefix("torch."),
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
        thresholds = write_report(path, subject)
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
