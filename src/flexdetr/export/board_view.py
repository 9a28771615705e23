"""The writer of toolchains that compile two graphs, and where such a pair departs from the model.

A compiled graph leaves nothing inside it to be read; the first of its outputs that is wrong still tells which part to
look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.export.board_form import Decode, Encode, probes_of, write_pair
from flexdetr.export.prepare import HEAD, DeployForm
from flexdetr.runtime.artifact import Artifact, open_artifact
from flexdetr.runtime.board import BoardRuntime, outputs_of


@dataclass(frozen=True)
class PairWriter:
    """Writes and reads the graphs of a format; see ``formats.Writer``.

    Attributes:
        names: of the files of the first and the second graph.
        save: writes one, or raises ExportError: the graph, what to trace it with, and its file.
        open_runtime: what runs an artifact of the format.
    """

    names: tuple[str, str]
    save: Callable[[Encode | Decode, tuple[Tensor, ...], Path], None]
    open_runtime: Callable[[Artifact], BoardRuntime]

    def write(self, form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
        """Write the graphs and the numpy code beside them; all of it is in float32.

        See ``formats.Writer``.
        """
        del precision, float32  # everything
        return write_pair(form, folder, self.names, self.save, plain_norms=False)

    def layers(self, path: Path) -> dict[str, str]:
        """The layers whose outputs are outputs of a graph: module path -> "0" or "1" for the graph, and its output."""
        return {f"{HEAD}.{layer}": output for layer, output in probes_of(path).split.items()}

    def read_values(
        self, path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.floating]]:
        """Run the graphs and give some of their outputs.

        See ``formats.Writer``.
        """
        artifact = open_artifact(path, verify=False)
        answers = self.open_runtime(artifact).run(feeds["images"][0])
        values = {
            f"{graph}:{name}": value
            for graph, (found, known) in enumerate(zip(answers, outputs_of(artifact), strict=True))
            for name, value in zip(known, found, strict=True)
        }
        return [np.asarray(values[name], np.float32) for name in names]
