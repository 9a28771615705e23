"""Programs of torch.export; unlike most other runtimes this one is torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import flexdetr.model.suppression  # noqa: F401 - registers the operation that programs of dense heads hold
from flexdetr.export.program import quiet
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.feeds import check_feeds
from flexdetr.runtime.trusted_programs import refuse_unknown


class TorchProgramRuntime:
    """Runs an artifact of format "torch".

    The device is "auto" or "cpu": the program was traced there. ``threads`` are those of the whole process;
    None leaves them as they are.

    Attributes:
        parallel: pictures worked on at a time.

    Raises:
        ArtifactError: if torch cannot read the file, it was exported elsewhere, or the device is another.
    """

    def __init__(self, artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise ArtifactError(f"{artifact.path} was exported for the cpu; got device {device!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.artifact = artifact
        self.parallel = 1
        self._module = read_program(artifact.model_file).module()
        # What torch does once only it does here, where threads cannot meet in it.
        takes = artifact.metadata.input
        self.infer(np.zeros((1, *takes.size, takes.channels), np.uint8))

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        return "torch.export program on CPU"

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        name = f"torch.export program, PyTorch {torch.__version__},"
        return Computation.here(
            name, "CPU", self.artifact.written_precision, self.artifact.metadata.precision
        )

    @torch.inference_mode()
    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the program; see ``OpenVINORuntime.infer``.

        Raises:
            FeedError: if the pictures do not fit.
        """
        takes = self.artifact.metadata.input
        pictures, original = check_feeds(images, sizes, takes)
        feeds = (pictures,) if takes.sizes is None else (pictures, original)
        return tuple(part.numpy() for part in self._module(*(torch.tensor(feed) for feed in feeds)))


def read_program(path: Path) -> torch.export.ExportedProgram:
    """Open a program.

    Raises:
        ArtifactError: if torch cannot read it, or it is code of unknown origin.
    """
    refuse_unknown(path)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # zip, JSON and torch errors share no base
        raise ArtifactError(f"{path} cannot be read by torch.export: {error}") from error
