"""ExecuTorch as the runtime of programs for phones and boards; its Python side hands over torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from flexdetr.runtime.artifact import Artifact
from flexdetr.runtime.board import BoardRuntime, Opened, Toolchain

ENCODE, DECODE = "encode.pte", "decode.pte"


def _load(path: Path, inputs: Sequence[str], outputs: int, threads: int | None) -> Opened:
    """A program; its threads are those of the process."""
    del inputs, outputs, threads
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    return Opened(
        lambda feeds: [value.numpy() for value in method.execute([torch.from_numpy(one) for one in feeds])],
        int(program.metadata("forward").input_tensor_meta(0).sizes()[1]),
    )


_TOOLCHAIN = Toolchain(
    "ExecuTorch", (ENCODE, DECODE), _load, (RuntimeError,), "ExecuTorch with XNNPACK on CPU"
)


def open_runtime(artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> BoardRuntime:
    """The programs on ExecuTorch's own runtime, which needs torch; see ``Toolchain.open_runtime``.

    ``threads`` are those of the whole process; None leaves them as they are.
    """
    if threads is not None:  # before any program is loaded: it holds the threads that there are then
        portable_lib._unsafe_reset_threadpool(threads)
    return _TOOLCHAIN.open_runtime(artifact, device=device)
