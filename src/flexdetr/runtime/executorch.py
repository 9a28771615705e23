"""ExecuTorch as the runtime of programs for phones and boards; its Python side hands over torch's tensors."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from flexdetr.files import replacing, sha256
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.board import BoardRuntime, Opened, Toolchain
from flexdetr.runtime.cache import cache_folder

ENCODE, DECODE = "encode.pte", "decode.pte"

_log = logging.getLogger(__name__)

_LIMIT: Final = 300.0  # seconds; it takes five
_OPEN: Final = """
import sys
from executorch.runtime import Runtime
for file in sys.argv[1:]:
    print(file, flush=True)
    Runtime.get().load_program(file).load_method("forward")
"""


def _load(path: Path, inputs: Sequence[str], outputs: int, threads: int | None) -> Opened:
    """A program; its threads are those of the process."""
    del inputs, outputs, threads
    _open_elsewhere(path)
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    return Opened(
        lambda feeds: [value.numpy() for value in method.execute([torch.from_numpy(one) for one in feeds])],
        int(program.metadata("forward").input_tensor_meta(0).sizes()[1]),
    )


def _open_elsewhere(path: Path) -> None:
    """Open a file in a process of its own, once: on some damaged ones ExecuTorch aborts the process that opens them.

    The artifact's other program is opened there too, because most of the time goes into starting ExecuTorch.

    Raises:
        ArtifactError: if that process was ended. What is only an error there is one here too, and raised here.
    """
    folder = cache_folder() / "executorch"
    marks = {path: folder / sha256(path)}
    if marks[path].exists():
        return
    others = (path.with_name(name) for name in (ENCODE, DECODE))
    marks |= {file: folder / sha256(file) for file in others if file != path and file.exists()}
    asked = [str(file) for file, mark in marks.items() if not mark.exists()]
    command = [sys.executable, "-c", _OPEN, *asked]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)  # noqa: S603 - our own words
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"{path} was not opened by ExecuTorch within {_LIMIT:.0f} seconds") from error
    begun = [line for line in done.stdout.decode(errors="replace").splitlines() if line in asked]
    if done.returncode not in (0, 1):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ArtifactError(
            f"{begun[-1] if begun else path} is damaged: ExecuTorch ends the process that opens it (status "
            f"{done.returncode}: {last[:200]}); copy the artifact again, or export again"
        )
    opened = begun if done.returncode == 0 else begun[:-1]
    try:
        for file in opened:
            with replacing(marks[Path(file)]) as draft:
                draft.touch()
    except OSError as error:
        _log.info("that %s can be opened is not kept: %s", path, error.strerror or error)


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
