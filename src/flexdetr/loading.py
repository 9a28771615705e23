"""Opening a file: a detector or a classifier, with torch or without, as the file is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexdetr.api import Detector
from flexdetr.part_table import load_part
from flexdetr.tasks import TASKS

if TYPE_CHECKING:
    from flexdetr.classifier import Classifier
    from flexdetr.deployed import ArtifactDetector

_log = logging.getLogger(__name__)


def load(
    path: str | Path,
    *,
    runtime: str = "auto",
    source: str | None = None,
    **changes: Any,  # noqa: ANN401 - keys of Config, or options of ArtifactDetector
) -> Detector | ArtifactDetector | Classifier:
    """A detector or a classifier, as the file is: a checkpoint (ours, or another project's) or an exported artifact.

    Args:
        path: the checkpoint (a file, a folder that transformers saved, ``hf://user/name[@revision]`` on the hub, or
            a preset's name for its published detector, which is fetched once), or the artifact's folder or a file in
            it; torch is imported for a checkpoint only.
        runtime: what computes; see ``Detector.runtime`` and ``ArtifactDetector``. "auto" is decided here: PyTorch for a
            checkpoint, the format's own runtime for an artifact.
        source: what a checkpoint must be, like ``convert --from``: "paddle", "deim" ...; None tells by its content.
        **changes: of a checkpoint, configuration keys that do not change a weight's shape, like
            ``head={"eval_layers": 3}``; of an artifact, options of ``ArtifactDetector``, like ``threads=4``.

    Raises:
        WeightsError: if the checkpoint cannot be used.
        ArtifactError: if the artifact cannot be used.
        ConfigError: if a key or value is wrong.
    """
    from flexdetr.runtime.artifact import is_artifact

    if is_artifact(path):
        from flexdetr.deployed import ArtifactDetector, check_options

        check_options(path, changes if source is None else {**changes, "source": source})
        deployed = ArtifactDetector(path, runtime=runtime, **changes)
        return _for_people(deployed.metadata.task, deployed)
    from flexdetr.engine.device import check_runtime

    check_runtime(runtime)
    detector = Detector.from_checkpoint(path, source=source, **changes)
    detector.runtime = "torch" if runtime == "auto" else runtime
    _log.info("%s computes with %s, runtime %s", path, detector.runtime, runtime)
    return _for_people(detector.config.task, detector)


def _for_people(task: str, loaded: Detector | ArtifactDetector) -> Detector | ArtifactDetector | Classifier:
    """What a loaded model is used through; its task's row says it."""
    facade = TASKS[task].facade if task in TASKS else ""
    if not facade:
        return loaded
    wrapped: Classifier = load_part(facade).of(loaded)
    return wrapped
