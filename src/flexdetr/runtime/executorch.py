"""ExecuTorch as the runtime of two programs; its Python side hands over torch's tensors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Program, Runtime
from numpy.typing import NDArray

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.board import BoardRuntime, Graph, check_device

ENCODE, DECODE = "encode.pte", "decode.pte"


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
        ArtifactError: if ExecuTorch cannot read a file, or the device is another.
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
