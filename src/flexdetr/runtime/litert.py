"""LiteRT (TensorFlow Lite) as the runtime of two graphs: for phones and boards, and any CPU to check them on."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.board import OUTPUTS, BoardRuntime, Graph, check_device

ENCODE, DECODE = "encode.tflite", "decode.tflite"


def open_runtime(
    artifact: Artifact,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> BoardRuntime:
    """Both graphs on LiteRT's interpreter, which needs no torch.

    Args:
        artifact: of format "litert".
        device: "auto" or "cpu".
        threads: CPU threads; None takes all cores.

    Raises:
        ArtifactError: if LiteRT cannot read a file, or the device is another.
    """
    check_device("LiteRT", device)
    encode, decode = (
        _runner(artifact.path / name, threads or os.cpu_count() or 1) for name in (ENCODE, DECODE)
    )
    queries = int(decode.get_input_details()["args_0"]["shape"][1])
    return BoardRuntime(
        artifact,
        _graph(encode, OUTPUTS[0]),
        _graph(decode, OUTPUTS[1]),
        queries,
        "LiteRT with XNNPACK on CPU",
    )


def _runner(path: Path, threads: int) -> Any:  # noqa: ANN401 - LiteRT has no types
    try:
        return Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read by LiteRT: {error}") from error


def _graph(runner: Any, outputs: Sequence[str]) -> Graph:  # noqa: ANN401 - see above
    # An interpreter has one set of buffers, and pictures come from several threads.
    turn = threading.Lock()

    def run(feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with turn:
            answers = runner(**{f"args_{place}": value for place, value in enumerate(feeds)})
        return [answers[f"output_{place}"] for place in range(len(outputs))]

    return run
