"""Artifacts in graphs of fixed shapes, picture by picture: two with the choice of queries between them, or one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
# Of the one graph of a dense head, which chooses nothing.
OUTPUTS_OF_ONE = ("logits", "boxes")

# A graph's inputs, in order -> its outputs, in order.
Graph = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]


def outputs_of(artifact: Artifact) -> tuple[tuple[str, ...], ...]:
    """What each graph of an artifact answers."""
    return OUTPUTS if artifact.metadata.suppression is None else (OUTPUTS_OF_ONE,)


class Opened(NamedTuple):
    """A graph that can be run.

    ``rows`` is the length of its first input's second axis.
    """

    run: Graph
    rows: int


@dataclass
class BoardRuntime:
    """Runs the graphs of an artifact that was exported for a board.

    ``decode`` is None for a dense head, whose first graph answers; ``description`` says what computes, for
    tables and logs; ``parallel`` pictures are worked on at a time.
    """

    artifact: Artifact
    encode: Opened
    decode: Opened | None
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

        Returns:
            Logits (B, Q, C) and cxcywh boxes (B, Q, 4) as fractions.

        Raises:
            FeedError: if the pictures do not fit.
        """
        pictures, _ = check_feeds(images, sizes, self.artifact.metadata.input)
        answers = [self.run(picture)[-1] for picture in pictures]
        return tuple(np.concatenate(part) for part in zip(*answers, strict=True))

    def run(self, picture: NDArray[np.uint8]) -> list[Sequence[NDArray[Any]]]:
        """(H, W, 3) -> what each graph answers, as ``outputs_of`` names it."""
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
        encoded = self.encode.run([planes])
        if self.decode is None:
            return [encoded]
        memory, tokens, scores, boxes = encoded
        content, reference = choose(tokens, scores, boxes, self.decode.rows)
        return [encoded, self.decode.run([content, reference, memory])]


@dataclass(frozen=True)
class Toolchain:
    """How the graphs of a format are opened.

    Attributes:
        name: of what runs them, for messages.
        names: of the files of the first and the second graph.
        load: opens a file: the file, the names of its inputs, the number of its outputs, and CPU threads or None.
        errors: what ``load`` raises for a file that it cannot read.
        description: what computes, for tables and logs.
        in_turn: whether a graph has one set of buffers, so that threads take turns.
    """

    name: str
    names: tuple[str, str]
    load: Callable[[Path, Sequence[str], int, int | None], Opened]
    errors: tuple[type[Exception], ...]
    description: str
    in_turn: bool = True

    def open_runtime(
        self, artifact: Artifact, *, device: str = "auto", threads: int | None = None
    ) -> BoardRuntime:
        """Open an artifact.

        The device is "auto" or "cpu"; ``threads`` None leaves it to the toolchain.

        Raises:
            ArtifactError: if a file cannot be read, or the device is another.
        """
        if device not in ("auto", "cpu"):
            raise ArtifactError(f"{self.name} has no device {device!r} here; it has: cpu")
        turn = threading.Lock()
        opened = []
        for name, inputs, outputs in zip(self.names, INPUTS, outputs_of(artifact), strict=False):
            path = artifact.path / name
            try:
                graph = self.load(path, inputs, len(outputs), threads)
            except ImportError:
                raise  # of a package that is not installed, not of the file
            except self.errors as error:
                raise ArtifactError(f"{path} cannot be read by {self.name}: {error}") from error
            opened.append(graph._replace(run=_in_turn(graph.run, turn)) if self.in_turn else graph)
        return BoardRuntime(artifact, opened[0], opened[1] if len(opened) > 1 else None, self.description)


def _in_turn(run: Graph, turn: threading.Lock) -> Graph:
    """A graph that one thread runs at a time: pictures come from several."""

    def runs_alone(feeds: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        with turn:
            return run(feeds)

    return runs_alone


def _load(path: Path, inputs: Sequence[str], outputs: int, threads: int | None) -> Opened:
    """A graph on onnxruntime."""
    import onnxruntime

    del outputs
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Opened(
        lambda feeds: session.run(None, dict(zip(inputs, feeds, strict=True))),
        int(session.get_inputs()[0].shape[1]),
    )


# The graphs of ``--target``, to check them; onnxruntime's exceptions share no base of their own.
on_onnxruntime = Toolchain(
    "onnxruntime",
    (ENCODE, DECODE),
    _load,
    (Exception,),
    "onnxruntime on CPU, graphs for boards",
    in_turn=False,
).open_runtime
