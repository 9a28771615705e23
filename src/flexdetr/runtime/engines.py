"""What runs an artifact, and in which precision."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal, Protocol, cast, get_args

from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.part_table import load_part
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.formats import ENGINES, FORMATS
from flexdetr.runtime.parity import Asked

_log = logging.getLogger(__name__)


class Runtime(Protocol):
    """What runs an artifact's graph."""

    parallel: int

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        ...

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        ...

    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """(B, H, W, C) uint8 and (B, 2) original sizes, None for those of the pictures -> the metadata's outputs."""
        ...


def engine_of(artifact: Artifact, asked: str) -> str:
    """The engine for an artifact, by its name.

    ``asked`` is one of ``ENGINES``, or "auto": the format's own, or another that runs it where that is not
    installed.

    Raises:
        ArtifactError: if the one that is asked for does not run this format, or none that does is installed.
    """
    if asked not in ("auto", *ENGINES):
        raise ArtifactError(nearest(asked, ("auto", *ENGINES), "runtime"))
    fitting = tuple(FORMATS[artifact.metadata.format].runtimes)
    # OpenVINO 2026.4 computes such files otherwise than they say, and misses every sixth detection.
    wrong_in_openvino = (artifact.metadata.format, artifact.metadata.precision) == ("onnx", "int8")
    if wrong_in_openvino and asked == "openvino":
        _log.warning(
            "%s is int8 in ONNX, which OpenVINO computes wrongly: detections will be missing; use "
            "runtime='onnxruntime', or export with --format openvino",
            artifact.path,
        )
    if wrong_in_openvino and asked == "auto" and not _installed("onnxruntime"):
        raise ArtifactError(
            f"{artifact.path} is int8 in ONNX, which OpenVINO computes wrongly: install onnxruntime with pip install "
            f"'flexdetr[{ENGINES['onnxruntime'].extra}]', or export again with --format openvino"
        )
    if asked == "auto":
        return next((name for name in fitting if _installed(name)), fitting[0])
    if asked not in fitting:
        raise ArtifactError(
            f"{artifact.path} is in format {artifact.metadata.format}, which {asked} does not run; "
            f"use runtime={' or '.join(map(repr, fitting))}"
        )
    return asked


def _installed(engine: str) -> bool:
    return importlib.util.find_spec(ENGINES[engine].package) is not None


def precision_of(artifact: Artifact, engine: str, asked: Asked) -> Asked:
    """What a runtime is asked to compute in.

    Raises:
        ArtifactError: if there is no such precision, or the runtime does not have the choice.
    """
    if asked not in get_args(Asked):
        raise ArtifactError(nearest(asked, get_args(Asked), "precision"))
    own = artifact.written_precision
    if ENGINES[engine].chooses:
        return asked
    if asked not in ("auto", own):
        raise ArtifactError(
            f"{engine} computes {artifact.path} in {own}, as it was written; got precision {asked!r}: leave it out, or "
            "export with --format openvino, which can be computed in several"
        )
    return "auto"


def start(
    engine: str,
    artifact: Artifact,
    hint: Literal["latency", "throughput"],
    **options: Any,  # noqa: ANN401 - of the runtimes
) -> Runtime:
    """Start a runtime; those that cannot give their threads to several pictures at a time are not told the hint."""
    row = FORMATS[artifact.metadata.format]
    hints = {"hint": hint} if ENGINES[engine].shares and not row.two_graphs else {}
    opened = load_part(row.runtimes[engine])(artifact, **hints, **options)
    return cast("Runtime", opened)
