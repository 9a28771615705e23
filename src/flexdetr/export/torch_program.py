"""The torch.export writer, its runtime, and the view into a written file that the search for a wrong layer needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import flexdetr.model.suppression  # noqa: F401 - registers the operation that programs of dense heads hold
from flexdetr.export.half import in_half
from flexdetr.export.prepare import DeployForm
from flexdetr.export.program import draw, quiet
from flexdetr.export.trusted_programs import refuse_unknown, remember
from flexdetr.runtime.artifact import Artifact, ArtifactError
from flexdetr.runtime.computation import Computation
from flexdetr.runtime.feeds import check_feeds

MODEL = "model.pt2"


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``model.pt2``, a program for ``torch.export.load``.

    Args:
        form: the float32 deploy form.
        folder: where to write.
        precision: "fp32" or "fp16", which computes in half precision.
        float32: paths or kinds of layers that stay in float32 then.

    Returns:
        Names of the files.

    Raises:
        ExportError: where torch.export cannot follow the model.
    """
    program = draw(in_half(form, float32) if precision == "fp16" else form)
    with quiet():
        torch.export.save(program, folder / MODEL)
    remember(folder / MODEL)
    return [MODEL]


def layers(path: Path) -> dict[str, str]:
    """Where the output of each layer can be read: module path -> name of a node in the graph."""
    found: dict[str, str] = {}
    for node in _load(path).graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        scopes = [scope for scope, _ in stack.values() if scope]
        if node.op == "call_function" and scopes:
            found[scopes[-1].replace(".inner", "")] = node.name
    return found


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run a written graph and read values inside it.

    Args:
        path: the file.
        names: names of nodes, as ``layers`` gives them, or of outputs.
        feeds: the graph's inputs, in the order of the program.

    Returns:
        The values, float32.
    """
    program = _load(path)
    outputs = ("logits", "boxes") if len(feeds) == 1 else ("boxes", "scores", "labels")
    module = program.module()
    graph = module.graph
    nodes = {node.name: node for node in graph.nodes}
    (result,) = (node for node in graph.nodes if node.op == "output")
    answered = list(result.args[0])
    result.args = (
        tuple(
            answered[outputs.index(name)] if name in outputs else _copied(graph, nodes[name])
            for name in names
        ),
    )
    graph._codegen = torch.fx.graph.CodeGen()
    module.recompile()
    with torch.inference_mode():
        values = module(*(torch.tensor(value) for value in feeds.values()))
    return [value.float().numpy() for value in values]


def _copied(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node:
    """A copy of a value at its place: an activation may write into it afterwards."""
    with graph.inserting_after(node):
        return graph.call_function(torch.ops.aten.clone.default, (node,))


class TorchProgramRuntime:
    """Runs an artifact of format "torch"; unlike the other runtimes it needs torch.

    Args:
        artifact: of format "torch".
        device: "auto" or "cpu": the program was traced there.
        threads: CPU threads, of the whole process; None leaves them as they are.

    Attributes:
        parallel: pictures worked on at a time.

    Raises:
        ArtifactError: where torch cannot read the file, it was exported elsewhere, or the device is another.
    """

    def __init__(self, artifact: Artifact, *, device: str = "auto", threads: int | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise ArtifactError(f"{artifact.path} was exported for the cpu; got device {device!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.artifact = artifact
        self.parallel = 1
        self._module = _load(artifact.model_file).module()
        # What torch does once only it does here, where threads cannot meet in it.
        self.infer(np.zeros((1, *artifact.metadata.input.size, 3), np.uint8))

    @property
    def description(self) -> str:
        """What computes, for tables and logs."""
        return "torch.export program on CPU"

    @property
    def computation(self) -> Computation:
        """What computes, and in which precision."""
        name = f"torch.export program, PyTorch {torch.__version__},"
        return Computation.here(
            name, "CPU", self.artifact.written_precision, self.artifact.metadata.precision
        )

    @torch.inference_mode()
    def infer(self, images: object, sizes: object = None) -> tuple[NDArray[Any], ...]:
        """Run the program; see ``OpenVINORuntime.infer``.

        Raises:
            FeedError: where the pictures do not fit.
        """
        takes = self.artifact.metadata.input
        pictures, original = check_feeds(images, sizes, takes)
        feeds = (pictures,) if takes.sizes is None else (pictures, original)
        return tuple(part.numpy() for part in self._module(*(torch.tensor(feed) for feed in feeds)))


def _load(path: Path) -> torch.export.ExportedProgram:
    refuse_unknown(path)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # zip, JSON and torch errors share no base
        raise ArtifactError(f"{path} cannot be read by torch.export: {error}") from error
