"""Where a pair of graphs departs from the model, told by what the graphs answer.

Toolchains that compile a graph leave nothing inside it to be read; the first of its outputs that is wrong still tells
which part to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.board import OUTPUTS, BoardRuntime


def layers(path: Path) -> dict[str, str]:
    """The layers whose outputs are outputs of a graph: module path -> "0" or "1" for the graph, and its output."""
    last = open_artifact(path, verify=False).metadata.made["decoder_layers"] - 1
    return {
        "detector.decoder.memory_norm": "0:tokens",
        "detector.decoder.encoder_score": "0:scores",
        f"detector.decoder.scores.{last}": "1:logits",
    }


def read_outputs(
    runtime: BoardRuntime, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run the graphs and give some of their outputs.

    Args:
        runtime: of the artifact.
        names: as ``layers`` gives them.
        feeds: ``images`` (1, H, W, 3) uint8.

    Returns:
        The values, float32.
    """
    answers = runtime.run(feeds["images"][0])
    values = {
        f"{graph}:{name}": value
        for graph, (found, known) in enumerate(zip(answers, OUTPUTS, strict=True))
        for name, value in zip(known, found, strict=True)
    }
    return [np.asarray(values[name], np.float32) for name in names]
