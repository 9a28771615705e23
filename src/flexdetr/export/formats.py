"""The formats that a detector can be exported to."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.calibration import Calibration
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.parity import Precision
from flexdetr.runtimes import Asked


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


class Quantiser(Protocol):
    """What the module of a format with int8 offers beside it."""

    def quantise(self, path: Path, form: DeployForm, calibration: Calibration, kept: Collection[str]) -> None:
        """Bring a written float32 file to int8, in its place; ``kept`` stays in float beyond the rule."""
        ...


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        module: the module that writes it; a ``Writer``. It is imported when it is used: each needs its own packages.
        resizes: whether its runtimes resize pictures as Pillow does. ONNX has such an operation, but its runtimes
            do not agree on what it computes.
        half: what "fp16" means; empty where there is none.
        int8: whether there is int8.
        computes_in_half: whether it means that values between layers are in half precision.
        two_graphs: whether it is two graphs of fixed shapes, with the choice of queries between them on the host.
        sees_inside: whether values inside a written file can be read, or the graphs' outputs only.
        precisions: what its runtime may choose to compute in, the one that a file has to be proven in first.
        sampling: the form of bilinear sampling that its runtimes compute fastest.
    """

    module: str
    resizes: bool
    half: str
    int8: bool
    computes_in_half: bool
    two_graphs: bool = False
    sees_inside: bool = True
    precisions: tuple[Precision, ...] = ("fp32",)
    sampling: Literal["model", "gather"] = "model"

    @property
    def writer(self) -> Writer:
        """The module."""
        return cast("Writer", importlib.import_module(self.module))

    @property
    def quantiser(self) -> Quantiser:
        """The module, where there is int8."""
        return cast("Quantiser", importlib.import_module(self.module))


FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format(
        "flexdetr.export.onnx",
        resizes=False,
        int8=True,
        half="computed in half precision",
        computes_in_half=True,
    ),
    "openvino": Format(
        "flexdetr.export.openvino",
        resizes=True,
        int8=True,
        half="weights stored in half precision",
        computes_in_half=False,
        precisions=("fp32", "bf16"),
        sampling="gather",  # 6 ms a decoder layer instead of 18: docs/results.md
    ),
    "torch": Format(
        "flexdetr.export.torch_program",
        resizes=True,
        int8=False,
        half="computed in half precision",
        computes_in_half=True,
    ),
    "board": Format(
        "flexdetr.export.board",
        resizes=False,
        int8=False,
        half="",
        computes_in_half=True,
        two_graphs=True,
    ),
    "executorch": Format(
        "flexdetr.export.executorch",
        resizes=False,
        int8=False,
        half="",
        computes_in_half=False,
        two_graphs=True,
        sees_inside=False,
    ),
    "litert": Format(
        "flexdetr.export.litert",
        resizes=False,
        int8=False,
        half="",
        computes_in_half=False,
        two_graphs=True,
        sees_inside=False,
    ),
}


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: naming the nearest where there is none of this name.
    """
    if name not in FORMATS:
        raise ExportError(nearest(name, FORMATS, "format"))
    return FORMATS[name]


def open_written(folder: Path, precision: Precision = "fp32", **options: Any) -> ArtifactDetector:  # noqa: ANN401 - the detector's
    """A written artifact, computed in a precision where its runtime has the choice, and else as it was written.

    Args:
        folder: the artifact.
        precision: to compute in.
        **options: of ``ArtifactDetector``; another ``runtime`` than the format's own has the choice.
    """
    kind = FORMATS[open_artifact(folder, verify=False).metadata.format]
    asked: Asked = precision if "runtime" in options or len(kind.precisions) > 1 else "auto"
    return ArtifactDetector(folder, **{"precision": asked, "cache": False, "verify": False, **options})
