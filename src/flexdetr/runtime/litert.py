"""LiteRT (TensorFlow Lite) as the runtime of graphs for phones and boards, and any CPU to check them on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from flexdetr.runtime.board import Opened, Toolchain

ENCODE, DECODE = "encode.tflite", "decode.tflite"


def _load(path: Path, inputs: Sequence[str], outputs: int, threads: int | None) -> Opened:
    """A graph on LiteRT's interpreter; it has lost the names of its inputs and outputs."""
    del inputs
    interpreter = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count() or 1)
    runner = interpreter.get_signature_runner()

    def run(feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        answers = runner(**{f"args_{place}": value for place, value in enumerate(feeds)})
        return [answers[f"output_{place}"] for place in range(outputs)]

    return Opened(run, int(runner.get_input_details()["args_0"]["shape"][1]))


open_runtime = Toolchain(
    "LiteRT", (ENCODE, DECODE), _load, (RuntimeError, ValueError), "LiteRT with XNNPACK on CPU"
).open_runtime
