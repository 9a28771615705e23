"""The ExecuTorch writer and its runtime: two programs for phones and boards, computed by XNNPACK where it can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Program, Runtime
from numpy.typing import NDArray
from torch import Tensor, nn

from flexdetr.export.board_view import PairWriter
from flexdetr.export.errors import ExportError
from flexdetr.export.program import quiet
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.board import BoardRuntime, Graph, check_device

ENCODE, DECODE = "encode.pte", "decode.pte"


def _save(part: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    try:
        with _hushed(), torch.no_grad():
            program = torch.export.export(part, inputs)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(edge.to_executorch().buffer)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"this model cannot be written for ExecuTorch: {error}") from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what the toolchain says about its own passes."""
    logger = logging.getLogger("executorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)


def open_runtime(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> BoardRuntime:
    """Both programs on ExecuTorch's own runtime, which needs torch.

    Args:
        artifact: of format "executorch".
        device: "auto" or "cpu".
        threads: CPU threads, of the whole process; None leaves them as they are.

    Raises:
        ArtifactError: where ExecuTorch cannot read a file, or the device is another.
    """
    check_device("ExecuTorch", device)
    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    encode, decode = (_load(artifact.path / name) for name in (ENCODE, DECODE))
    queries = int(decode.metadata("forward").input_tensor_meta(0).sizes()[1])
    # A method has one set of buffers, and pictures come from several threads.
    turn = threading.Lock()
    return BoardRuntime(
        artifact, _graph(encode, turn), _graph(decode, turn), queries, "ExecuTorch with XNNPACK on CPU"
    )


def _graph(program: Program, turn: threading.Lock) -> Graph:
    method = program.load_method("forward")

    def run(feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with turn:
            return [value.numpy() for value in method.execute([torch.from_numpy(one) for one in feeds])]

    return run


def _load(path: Path) -> Program:
    try:
        return Runtime.get().load_program(path)
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be read by ExecuTorch: {error}") from error


_writer = PairWriter((ENCODE, DECODE), _save, open_runtime)
write, layers, read_values = _writer.write, _writer.layers, _writer.read_values
