"""A checkpoint's detector on OpenVINO, without an artifact to keep: for many pictures on a CPU."""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.images import pixels
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.formats import format_of
from flexdetr.export.prepare import Options, prepare
from flexdetr.export.proof import drift_on, parity_of
from flexdetr.export.reference import Reference, pictures_of
from flexdetr.export.writing import DriftError, ExportSource, Writing
from flexdetr.runtime.openvino import computes_in
from flexdetr.runtime.parity import Asked, Precision
from flexdetr.runtime.sources import Item, Picture, expects_many, read

_log = logging.getLogger(__name__)

# Pictures that are compared before the others are predicted, and how many are tried to find them.
COMPARED, TRIED = 2, 8


def convert(
    subject: ExportSource,
    items: Sequence[Item],
    *,
    precision: Asked = "auto",
    decoder_layers: int | None = None,
    queries: int | None = None,
    threads: int | None = None,
) -> ArtifactDetector:
    """The detector on OpenVINO, compared with the PyTorch model on the first pictures.

    The graph is the one that ``flexdetr export --format openvino`` writes, and it is compared as an export is: in
    float32, and in what it is to compute in.

    Args:
        subject: the detector.
        items: what is to be predicted; of these the first that can be read are compared, drawn pictures where all are
            videos.
        precision: what to compute in; "auto" is bf16 where the CPU has it and the comparison passes, else float32.
        decoder_layers: decoder layers to run; None runs the configured number.
        queries: queries to select; None selects the configured number.
        threads: CPU threads; None leaves the choice to OpenVINO.

    Raises:
        DriftError: if OpenVINO does not find what the model finds.
        ExportError: if OpenVINO cannot express the model.
    """
    subject = subject.apart()
    kind = format_of("openvino")
    options = Options(
        subject.config.image_size, decoder_layers=decoder_layers, queries=queries, sampling=kind.sampling
    )
    form = prepare(subject.model, options)
    folder = tempfile.TemporaryDirectory(prefix="flexdetr-")
    place = Path(folder.name)
    Writing((), subject, "openvino", kind, form, "fp32", place, _log.info).write(())
    reference = Reference(subject.model, subject.classes, options.size, decoder_layers, queries)
    images = _first(items) or pictures_of(None, subject.classes, subject.config, count=COMPARED).images
    opening: dict[str, Any] = {"threads": threads, "cache": False, "verify": False}
    proven = ArtifactDetector(place, precision="fp32", **opening)
    drift = drift_on(proven, "fp32", reference, images)
    if not drift.passed:
        raise DriftError(
            f"OpenVINO does not find what PyTorch finds: {drift.describe()}",
            parity_of(proven, "the first pictures", [drift], "the conversion"),
        )
    if precision == "fp32" or (precision == "auto" and not computes_in("bf16")):
        weakref.finalize(proven, folder.cleanup)
        return proven
    computed: Precision = "bf16" if precision == "auto" else precision
    faster = ArtifactDetector(place, precision=computed, **opening)
    drift = drift_on(faster, computed, reference, images)
    if not drift.passed:
        rather = "computes in fp32 instead" if precision == "auto" else "which was asked for"
        _log.warning("OpenVINO in %s, %s: %s", computed, rather, drift.describe())
    chosen = faster if drift.passed or precision != "auto" else proven
    weakref.finalize(chosen, folder.cleanup)
    return chosen


def _first(items: Sequence[Item]) -> tuple[NDArray[np.uint8], ...]:
    stills = [item for item in items if not expects_many(item)][:TRIED]
    images: list[NDArray[np.uint8]] = []
    for answer in read(stills, pixels):
        if isinstance(answer, Picture):
            images.append(answer.image)
        if len(images) == COMPARED:
            break
    return tuple(images)
