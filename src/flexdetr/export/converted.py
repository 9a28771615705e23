"""A checkpoint's detector on OpenVINO, without an artifact to keep: for many pictures on a CPU."""

from __future__ import annotations

import copy
import logging
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.data.images import pixels
from flexdetr.deployed import ArtifactDetector
from flexdetr.engine.device import choose_precision
from flexdetr.export.formats import format_of
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.proof import TOLERANCES, drift_on
from flexdetr.export.reference import Reference, pictures_of
from flexdetr.export.writing import DriftError, Subject, Writing
from flexdetr.runtime.parity import Parity
from flexdetr.runtime.sources import Item, Picture, is_film, read

_log = logging.getLogger(__name__)

# Pictures that are compared before the others are predicted, and how many are tried to find them.
COMPARED, TRIED = 2, 8


def convert(
    subject: Subject,
    items: Sequence[Item],
    *,
    decoder_layers: int | None = None,
    queries: int | None = None,
) -> ArtifactDetector:
    """The detector on OpenVINO, compared with the PyTorch model on the first pictures.

    The graph is the one that ``flexdetr export --format openvino`` writes. It is compared in float32, with the proof's
    tolerance, and then computes in what PyTorch would: bfloat16 where the CPU multiplies it in hardware, float32
    elsewhere.

    Args:
        subject: the detector.
        items: what is to be predicted; of these the first that can be read are compared, drawn pictures where all are
            videos.
        decoder_layers: decoder layers to run; None runs the configured number.
        queries: queries to select; None selects the configured number.

    Raises:
        DriftError: where OpenVINO does not find what the model finds.
        ExportError: where OpenVINO cannot express the model.
    """
    if any(part.device.type != "cpu" for part in subject.model.parameters()):
        model = copy.deepcopy(subject.model).cpu()
        subject = Subject(model, subject.config, subject.classes, subject.metadata)
    options = Options(subject.config.image_size, decoder_layers=decoder_layers, queries=queries)
    form = prepare(subject.model, options)
    folder = tempfile.TemporaryDirectory(prefix="flexdetr-")
    place = Path(folder.name)
    Writing((), subject, "openvino", format_of("openvino"), form, "fp32", place, _log.info).write(())
    proven = ArtifactDetector(place, precision="f32", cache=False, verify=False)
    reference = Reference(subject.model, subject.classes, options.size, decoder_layers, queries)
    images = _first(items) or pictures_of(None, subject.classes, count=COMPARED).images
    drift = drift_on(proven, reference, images)
    if not drift.passed:
        raise DriftError(
            f"OpenVINO does not find what PyTorch finds: of {drift.compared} detections in the first pictures "
            f"{drift.missing} are missing, {drift.extra} are extra and {drift.flips} of another class; scores drift by "
            f"up to {drift.score:.2g}, boxes by {drift.box:.2g} px",
            Parity(
                passed=False,
                tolerance=TOLERANCES["fp32"],
                runtime=proven.runtime().description,
                pictures="the first pictures",
                drifts=(drift,),
                culprit="the conversion",
            ),
        )
    in_float32 = choose_precision("auto", torch.device("cpu")) == torch.float32
    detector = proven if in_float32 else ArtifactDetector(place, cache=False, verify=False)
    weakref.finalize(detector, folder.cleanup)
    return detector


def _first(items: Sequence[Item]) -> tuple[NDArray[np.uint8], ...]:
    stills = [item for item in items if not is_film(item)][:TRIED]
    images: list[NDArray[np.uint8]] = []
    for answer in read(stills, pixels):
        if isinstance(answer, Picture):
            images.append(answer.image)
        if len(images) == COMPARED:
            break
    return tuple(images)
