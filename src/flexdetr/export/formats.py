"""The formats that a detector can be exported to."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.export.prepare import DeployForm, ExportError


class Writer(Protocol):
    """What the module of a format offers."""

    def write(self, form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
        """Write the model's files, the main one first, and give their names."""
        ...

    def layers(self, path: Path) -> dict[str, str]:
        """Where the output of each layer can be read in a written file: module path -> name of a value."""
        ...

    def read_values(
        self, path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.floating]]:
        """Run a written file and read values inside it."""
        ...


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        module: the module that writes it; a ``Writer``. It is imported when it is used: each needs its own packages.
        resizes: whether its runtimes resize pictures as Pillow does. ONNX has such an operation, but its runtimes
            do not agree on what it computes.
        half: what "fp16" means.
    """

    module: str
    resizes: bool
    half: str

    @property
    def writer(self) -> Writer:
        """The module."""
        return cast("Writer", importlib.import_module(self.module))


FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format("flexdetr.export.onnx", resizes=False, half="computed in half precision"),
    "openvino": Format("flexdetr.export.openvino", resizes=True, half="weights stored in half precision"),
    "torch": Format("flexdetr.export.torch_program", resizes=True, half="computed in half precision"),
}


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: naming the nearest where there is none of this name.
    """
    if name not in FORMATS:
        raise ExportError(nearest(name, FORMATS, "format"))
    return FORMATS[name]
