"""The LiteRT writer: two ``.tflite`` graphs for phones and boards."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexdetr.export import board_view
from flexdetr.export.board_form import write_pair
from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm
from flexdetr.export.program import quiet
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.litert import DECODE, ENCODE, open_runtime

layers: Callable[[Path], dict[str, str]] = board_view.layers


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``encode.tflite``, ``decode.tflite`` and ``host.py``.

    Args:
        form: the float32 deploy form.
        folder: where to write.
        precision: "fp32".
        float32: not used.

    Returns:
        Names of the files.

    Raises:
        ExportError: where LiteRT cannot express the model.
    """
    del precision, float32  # everything
    return write_pair(form, folder, (ENCODE, DECODE), _save, plain_norms=False)


def _save(part: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    said = io.StringIO()  # a line for each of the toolchain's own passes
    try:
        with redirect_stdout(said), redirect_stderr(said), quiet(), torch.no_grad():
            litert_torch.convert(part.eval(), inputs).export(str(path))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"this model cannot be written for LiteRT: {error}") from error


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run the written graphs and give some of their outputs; see ``board_view``."""
    return board_view.read_outputs(open_runtime(open_artifact(path, verify=False)), names, feeds)
