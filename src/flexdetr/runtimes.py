"""What runs an artifact, and in which precision."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation

_log = logging.getLogger(__name__)

Engine = Literal["auto", "openvino", "onnxruntime", "torch", "executorch", "litert"]
Asked = Literal["auto", "fp32", "bf16", "fp16"]


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
        """(B, H, W, 3) uint8 RGB and (B, 2) original sizes -> the outputs that the metadata names."""
        ...


_READS = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "openvino"),
    "torch": ("torch",),
    "board": ("onnxruntime",),
    "executorch": ("executorch",),
    "litert": ("litert",),
}


def engine_of(artifact: Artifact, asked: Engine) -> str:
    """The runtime for an artifact, by its name.

    Raises:
        ArtifactError: where the one that is asked for does not run this format, or none that does is installed.
    """
    fitting = _READS[artifact.metadata.format]
    # OpenVINO 2026.4 computes such files otherwise than they say, and misses every sixth detection.
    wrong_in_openvino = (artifact.metadata.format, artifact.metadata.precision) == ("onnx", "int8")
    if wrong_in_openvino and asked == "openvino":
        _log.warning(
            "%s is int8 in ONNX, which OpenVINO computes wrongly: detections will be missing; use "
            "runtime='onnxruntime', or export with --format openvino",
            artifact.path,
        )
    if wrong_in_openvino and asked == "auto" and importlib.util.find_spec("onnxruntime") is None:
        raise ArtifactError(
            f"{artifact.path} is int8 in ONNX, which OpenVINO computes wrongly: install onnxruntime with pip install "
            "'flexdetr[export]', or export again with --format openvino"
        )
    if asked == "auto":
        return next((name for name in fitting if importlib.util.find_spec(name) is not None), fitting[-1])
    if asked not in fitting:
        raise ArtifactError(
            f"{artifact.path} is in format {artifact.metadata.format}, which {asked} does not run; "
            f"use runtime={' or '.join(map(repr, fitting))}"
        )
    return asked


def precision_of(artifact: Artifact, engine: str, asked: Asked) -> Asked:
    """What a runtime is asked to compute in; only OpenVINO has the choice.

    Raises:
        ArtifactError: where there is no such precision, or the runtime does not have it.
    """
    if asked not in get_args(Asked):
        raise ArtifactError(nearest(asked, get_args(Asked), "precision"))
    own = artifact.written_precision
    if engine != "openvino" and asked not in ("auto", own):
        raise ArtifactError(
            f"{engine} computes {artifact.path} in {own}, as it was written; got precision {asked!r}: leave it out, or "
            "export with --format openvino, which can be computed in several"
        )
    return asked if engine == "openvino" else "auto"


def start(
    engine: str,
    artifact: Artifact,
    hint: Literal["latency", "throughput"],
    **options: Any,  # noqa: ANN401 - of the runtimes
) -> Runtime:
    """Start a runtime; only OpenVINO and onnxruntime can give their threads to several pictures at a time."""
    if engine == "openvino":
        from flexdetr.runtime.openvino import OpenVINORuntime

        return OpenVINORuntime(artifact, hint=hint, **options)
    if engine == "onnxruntime" and artifact.metadata.format == "board":
        from flexdetr.runtime.board import on_onnxruntime

        return on_onnxruntime(artifact, **options)
    if engine == "onnxruntime":
        from flexdetr.runtime.onnxruntime import OnnxRuntime

        return OnnxRuntime(artifact, hint=hint, **options)
    if engine == "litert":
        from flexdetr.runtime.litert import open_runtime as open_litert

        return open_litert(artifact, **options)
    if engine == "executorch":
        from flexdetr.export.executorch import open_runtime

        return open_runtime(artifact, **options)
    from flexdetr.export.torch_program import TorchProgramRuntime

    return TorchProgramRuntime(artifact, **options)
