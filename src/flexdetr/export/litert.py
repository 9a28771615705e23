"""The LiteRT writer: two ``.tflite`` graphs for phones and boards."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import litert_torch
import torch
from torch import Tensor

from flexdetr.export.board_form import Decode, Encode
from flexdetr.export.board_view import PairWriter
from flexdetr.export.errors import ExportError
from flexdetr.export.program import quiet
from flexdetr.runtime.litert import DECODE, ENCODE, open_runtime


def _save(part: Encode | Decode, inputs: tuple[Tensor, ...], path: Path) -> None:
    said = io.StringIO()  # a line for each of the toolchain's own passes
    try:
        with redirect_stdout(said), redirect_stderr(said), quiet(), torch.no_grad():
            litert_torch.convert(part.eval(), inputs).export(str(path))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"this model cannot be written for LiteRT: {error}") from error


_writer = PairWriter((ENCODE, DECODE), _save, open_runtime)
write, layers, read_values = _writer.write, _writer.layers, _writer.read_values
