"""The graph that torch.export draws of the deploy form; ONNX and the torch format are made from it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from flexdetr.export.errors import ExportError
from flexdetr.export.prepare import DeployForm, Options, example

LARGEST_BATCH = 1024
LARGEST_SIDE = 8192


def draw(form: DeployForm) -> ExportedProgram:
    """Trace the deploy form with a free batch and, where its options say so, free sides.

    Raises:
        ExportError: if torch.export cannot follow the model.
    """
    inputs = example(form.options)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(form, inputs, dynamic_shapes=_free(inputs, form.options), strict=False)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"torch.export cannot follow this model: {error}") from error


def _free(inputs: tuple[Tensor, ...], options: Options) -> tuple[dict[int, Any], ...]:
    """What may vary: batch always; sides by 32 where the network's size is free, by one where the graph resizes."""
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    images: dict[int, Any] = {0: batch}
    if options.dynamic_size:
        least = options.smallest // 32
        rows, columns = (Dim(name, min=least, max=LARGEST_SIDE // 32) for name in ("rows", "columns"))
        images |= {1: 32 * rows, 2: 32 * columns}
    elif options.resize_inside:
        images |= {1: Dim("height", min=1, max=LARGEST_SIDE), 2: Dim("width", min=1, max=LARGEST_SIDE)}
    return (images, {0: batch})[: len(inputs)]


@contextmanager
def quiet() -> Iterator[None]:
    """Tracers warn about every shape that is fixed, which is what is meant here; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
