"""What writes the formats of ``flexdetr.runtime.formats``, and how a written artifact is opened for its proof."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flexdetr.config import nearest
from flexdetr.deployed import ArtifactDetector
from flexdetr.export.calibration import CalibrationPictures
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.formats import FORMATS, NAMED, Format
from flexdetr.runtime.parity import Asked, Precision


class Writer(Protocol):
    """What the module of a format offers."""

    def write(self, form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
        """Write the model's files.

        Args:
            form: the float32 deploy form.
            folder: where to write.
            precision: "fp32" or "fp16", as far as the format has it.
            float32: paths or kinds of layers that stay in float32 in half precision.

        Returns:
            Names of the files, the main one first.

        Raises:
            ExportError: if the format cannot express the model.
        """
        ...

    def layers(self, path: Path) -> dict[str, str]:
        """Where the output of each layer can be read in a written file: module path -> name of a value."""
        ...

    def read_values(
        self, path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.floating]]:
        """Run a written file on its inputs, by name, and read values inside it, named as by ``layers``, in float32."""
        ...


class Quantiser(Protocol):
    """What the module of a format with int8 offers beside it."""

    def quantise(
        self, path: Path, form: DeployForm, calibration: CalibrationPictures, kept: Collection[str]
    ) -> None:
        """Bring a written float32 file to int8, in its place.

        Args:
            path: the file.
            form: the float32 form that it was written from.
            calibration: pictures to measure ranges on.
            kept: parts of the detector that stay in float beyond the rule.

        Raises:
            ExportError: if NNCF cannot quantise the graph.
        """
        ...


def writer_of(kind: Format) -> Writer:
    """What writes a format, imported now."""
    return cast("Writer", importlib.import_module(kind.writer))


def quantiser_of(kind: Format) -> Quantiser:
    """The same for a format with int8."""
    return cast("Quantiser", importlib.import_module(kind.writer))


def format_of(name: str) -> Format:
    """A format by its name.

    Raises:
        ExportError: naming the nearest if there is none of this name.
    """
    if name not in FORMATS:
        raise ExportError(nearest(name, NAMED, "format"))
    return FORMATS[name]


def open_written(folder: Path, precision: Precision = "fp32", **options: Any) -> ArtifactDetector:  # noqa: ANN401 - the detector's
    """A written artifact, computed in a precision where its runtime has the choice, and else as it was written.

    Another ``runtime`` than the format's own has the choice.
    """
    kind = FORMATS[open_artifact(folder, verify=False).metadata.format]
    asked: Asked = precision if "runtime" in options or len(kind.precisions) > 1 else "auto"
    return ArtifactDetector(folder, **{"precision": asked, "cache": False, "verify": False, **options})
