"""Artifacts on onnxruntime."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.feeds import named_feeds


class OnnxRuntime:
    """Runs an ONNX artifact; may be called from several threads at once.

    The device is "auto" or "cpu". The hint "latency" gives all threads to one picture, "throughput" one to each
    of several; ``threads`` None takes all cores.

    Attributes:
        parallel: pictures worked on at a time.

    Raises:
        ArtifactError: if onnxruntime cannot read the file, or has no such device.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "auto",
        hint: Literal["latency", "throughput"] = "latency",
        threads: int | None = None,
    ) -> None:
        if device not in ("auto", "cpu"):
            raise ArtifactError(f"onnxruntime has no device {device!r} here; it has: cpu")
        self.artifact = artifact
        cores = threads or os.cpu_count() or 1
        self.parallel = cores if hint == "throughput" else 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if hint == "throughput" else cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(artifact.model_file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base of their own
            raise ArtifactError(
                f"{artifact.model_file} cannot be used by onnxruntime: {_first_line(error)}"
            ) from error
        self._check_names()
        # Its bindings initialise themselves in the first run, where threads must not meet.
        takes = artifact.metadata.input
        self.infer(np.zeros((1, *takes.size, takes.channels), np.uint8))

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        return "onnxruntime on CPU"

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        name = f"onnxruntime {onnxruntime.__version__}"
        return Computation.here(
            name, "CPU", self.artifact.written_precision, self.artifact.metadata.precision
        )

    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the graph.

        Returns:
            The outputs in the order of the artifact's ``outputs.names``.

        Raises:
            FeedError: if the pictures do not fit.
        """
        feeds = named_feeds(images, sizes, self.artifact.metadata.input)
        answers = self._session.run(list(self.artifact.metadata.outputs.names), feeds)
        return tuple(np.asarray(answer) for answer in answers)

    def _check_names(self) -> None:
        takes, names = self.artifact.metadata.input, self.artifact.metadata.outputs.names
        wanted = {name for name in (takes.name, takes.sizes, *names) if name is not None}
        there = {value.name for value in [*self._session.get_inputs(), *self._session.get_outputs()]}
        if wanted - there:
            raise ArtifactError(
                f"{self.artifact.model_file} has no {', '.join(sorted(wanted - there))}, which its metadata names"
            )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
