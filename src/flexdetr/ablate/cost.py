"""What each variant costs: parameters and GFLOPs of both forms, and the time of one image from pixels to objects."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexdetr.ablate.run_records import COSTS, CostsFile, VariantCost, read_record
from flexdetr.ablate.runs import Job
from flexdetr.api import Detector
from flexdetr.data.check import read_as
from flexdetr.data.record_pixels import read_record as pixels_of
from flexdetr.engine.predict import detect_images
from flexdetr.files import write_whole
from flexdetr.metrics.latency import alternate
from flexdetr.model.detector import SECTIONS
from flexdetr.model.fuse import fuse
from flexdetr.model.size import measure_both
from flexdetr.runtime.cpu import processor

_log = logging.getLogger(__name__)

FILE: Final = "costs.json"
_IMAGES = 16
_ROUNDS = 3


class Cost(NamedTuple):
    """Of one variant.

    Attributes:
        params: of the deploy form.
        gflops: of the deploy form, for one image of the variant's size.
        params_training: of the form that is trained.
        gflops_training: of the form that is trained.
        latency_ms: median time of one image in the deploy form: resizing, network, detections.
    """

    params: int
    gflops: float
    params_training: int
    gflops_training: float
    latency_ms: float


class Costs(NamedTuple):
    """Of all variants.

    Attributes:
        of: by the variant's name.
        machine: where the latency was measured, and with how many threads.
    """

    of: Mapping[str, Cost]
    machine: str


def costs(jobs: Mapping[str, Job], folder: Path, *, again: bool = False) -> Costs:
    """The costs of the variants: measured together, so that they can be compared, and kept in the folder.

    Args:
        jobs: a finished run of each variant.
        folder: of the ablation.
        again: measure even where all is known.

    Raises:
        ConfigError: if what is kept is damaged.
    """
    path = folder / FILE
    known = read_record(path, COSTS, "delete it, and the costs are measured again") or CostsFile()
    wanted = {name: _architecture(job) for name, job in jobs.items()}
    same = all(name in known.variants and known.variants[name].config == wanted[name] for name in jobs)
    if again or not same:
        detectors = {name: _best(job) for name, job in jobs.items()}
        times = _latencies(detectors, _pictures(next(iter(jobs.values()))))
        rows = {
            name: VariantCost(config=wanted[name], **_size(detectors[name]), latency_ms=times[name])
            for name in detectors
        }
        known = CostsFile(machine=machine(), variants=rows)
        write_whole(path, known.model_dump_json(indent=1))
    found = {name: Cost(*(getattr(known.variants[name], key) for key in Cost._fields)) for name in jobs}
    return Costs(found, known.machine)


def machine() -> str:
    """One line about where this runs."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def _best(job: Job) -> Detector:
    return Detector.from_checkpoint(job.folder / "best.safetensors", backbone=job.config.backbone.name)


def _latencies(detectors: Mapping[str, Detector], pictures: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    def call(detector: Detector) -> Callable[[NDArray[np.uint8]], object]:
        deploy = fuse(detector.model)
        device = detector.config.train.device.partition(",")[0]
        options: dict[str, Any] = {"classes": detector.classes, "size": detector.config.image_size}
        return lambda picture: list(detect_images(deploy, [picture], threshold=0.0, device=device, **options))

    calls = {name: call(detector) for name, detector in detectors.items()}
    seconds = alternate(calls, pictures, rounds=_ROUNDS)
    return {name: 1e3 * median(values) for name, values in seconds.items()}


def _pictures(job: Job) -> list[NDArray[np.uint8]]:
    dataset = read_as(job.config.model_copy(update={"seed": job.seed}), job.data)
    return [pixels_of(record) for record in dataset.split(job.split)[:_IMAGES]]


def _architecture(job: Job) -> dict[str, Any]:
    """What a variant's cost depends on."""
    told = job.config.model_dump(mode="json", include={"image_size", *SECTIONS})
    channels = job.config.data.channels
    return told if channels == 3 else {**told, "channels": channels}


def _size(detector: Detector) -> dict[str, Any]:
    training, deploy = measure_both(detector.config, len(detector.classes))
    return {
        "params": deploy.params,
        "gflops": deploy.gflops,
        "params_training": training.params,
        "gflops_training": training.gflops,
    }
