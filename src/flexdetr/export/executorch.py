"""The ExecuTorch writer: two programs for phones and boards, computed by XNNPACK where it can."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor

from flexdetr.export.board_form import Decode, Encode
from flexdetr.export.board_view import PairWriter
from flexdetr.export.errors import ExportError
from flexdetr.export.program import quiet
from flexdetr.runtime.executorch import DECODE, ENCODE, open_runtime


def _save(part: Encode | Decode, inputs: tuple[Tensor, ...], path: Path) -> None:
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(part, inputs)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(edge.to_executorch().buffer)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ExportError(f"this model cannot be written for ExecuTorch: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the toolchain says about its own passes."""
    logger = logging.getLogger("executorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)


_writer = PairWriter((ENCODE, DECODE), _save, open_runtime)
write, layers, read_values = _writer.write, _writer.layers, _writer.read_values
