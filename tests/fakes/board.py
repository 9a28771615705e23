"""A writer of boards' graphs that writes something else than the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from flexdetr.export import board as writer


def spoil(monkeypatch: pytest.MonkeyPatch, bias: str, values: Callable[[int], NDArray[np.float32]]) -> None:
    """Let exports write other numbers into ``encode.onnx``.

    Args:
        monkeypatch: undoes it.
        bias: how the names of the constants end that are changed.
        values: the new numbers, by how many there are.
    """
    write = writer.write

    def broken(form: object, folder: Path, precision: str, float32: object) -> list[str]:
        names = write(form, folder, precision, float32)  # type: ignore[arg-type]
        proto = onnx.load(str(folder / "encode.onnx"))
        for one in proto.graph.initializer:
            if one.name.endswith(bias):
                one.CopyFrom(onnx.numpy_helper.from_array(values(one.dims[0]), one.name))
        onnx.save(proto, str(folder / "encode.onnx"))
        return names

    monkeypatch.setattr(writer, "write", broken)
