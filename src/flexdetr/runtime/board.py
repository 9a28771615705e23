"""Artifacts in two graphs with the choice of queries between them, picture by picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.feeds import check_feeds
from flexdetr.runtime.host import choose

ENCODE, DECODE = "encode.onnx", "decode.onnx"
# Of both graphs in every format, in order; a toolchain may lose the names.
INPUTS = (("image",), ("content", "reference", "memory"))
OUTPUTS = (("memory", "tokens", "scores", "boxes"), ("logits", "boxes"))

# A graph's inputs, in order -> its outputs, in order.
Graph = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]


@dataclass
class BoardRuntime:
    """Runs both graphs of an artifact that was exported in two.

    Attributes:
        artifact: the artifact.
        encode: its first graph.
        decode: its second graph.
        queries: how many tokens the second takes.
        description: what computes, for tables and logs.
        parallel: pictures worked on at a time.
    """

    artifact: Artifact
    encode: Graph
    decode: Graph
    queries: int
    description: str
    parallel: int = 1

    def __post_init__(self) -> None:
        # Native libraries initialise themselves in the first run, where threads must not meet.
        takes = self.artifact.metadata.input
        self.run(np.zeros((*takes.size, takes.channels), np.uint8))

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        runtime, _, _ = self.description.partition(" on ")
        return Computation.here(
            runtime, "CPU", self.artifact.written_precision, self.artifact.metadata.precision
        )

    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the graphs.

        Args:
            images: (B, H, W, 3) uint8 RGB in the network's size.
            sizes: not used: the graphs answer fractions.

        Returns:
            Logits (B, Q, C) and cxcywh boxes (B, Q, 4) as fractions.

        Raises:
            FeedError: if the pictures do not fit.
        """
        pictures, _ = check_feeds(images, sizes, self.artifact.metadata.input)
        answers = [self.run(picture)[1] for picture in pictures]
        return tuple(np.concatenate(part) for part in zip(*answers, strict=True))

    def run(self, picture: NDArray[np.uint8]) -> tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]:
        """(H, W, 3) -> what either graph answers, as ``OUTPUTS`` names it."""
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
        encoded = self.encode([planes])
        memory, tokens, scores, boxes = encoded
        content, reference = choose(tokens, scores, boxes, self.queries)
        return encoded, self.decode([content, reference, memory])


def on_onnxruntime(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> BoardRuntime:
    """The graphs of ``--target``, on onnxruntime to check them.

    Args:
        artifact: of format "board".
        device: "auto" or "cpu".
        threads: CPU threads; None takes all cores.

    Raises:
        ArtifactError: if onnxruntime cannot read a file, or has no such device.
    """
    import onnxruntime

    check_device("onnxruntime", device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3

    def opened(name: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
        path = artifact.path / name
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base of their own
            raise ArtifactError(f"{path} cannot be used by onnxruntime: {error}") from error

    def graph(session: Any, names: Sequence[str]) -> Graph:  # noqa: ANN401 - see above
        return lambda feeds: session.run(None, dict(zip(names, feeds, strict=True)))

    encode, decode = opened(ENCODE), opened(DECODE)
    return BoardRuntime(
        artifact,
        graph(encode, INPUTS[0]),
        graph(decode, INPUTS[1]),
        int(decode.get_inputs()[0].shape[1]),
        "onnxruntime on CPU, two graphs",
    )


def check_device(runtime: str, device: str) -> None:
    """Answer a device other than the CPU.

    Raises:
        ArtifactError: if there is none of this name.
    """
    if device not in ("auto", "cpu"):
        raise ArtifactError(f"{runtime} has no device {device!r} here; it has: cpu")
