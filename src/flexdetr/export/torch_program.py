"""The torch.export writer, and the view into a written file that the search for a wrong layer needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.export.half import in_half
from flexdetr.export.prepare import DeployForm
from flexdetr.export.program import draw, quiet
from flexdetr.runtime.torch_program import read_program
from flexdetr.runtime.trusted_programs import remember

MODEL = "model.pt2"


def write(form: DeployForm, folder: Path, precision: str, float32: Collection[str]) -> list[str]:
    """Write ``model.pt2``, a program for ``torch.export.load``.

    See ``formats.Writer``; fp16 computes in half precision.
    """
    program = draw(in_half(form, float32) if precision == "fp16" else form)
    with quiet():
        torch.export.save(program, folder / MODEL)
    remember(folder / MODEL)
    return [MODEL]


def layers(path: Path) -> dict[str, str]:
    """Where the output of each layer can be read: module path -> name of a node in the graph."""
    found: dict[str, str] = {}
    for node in read_program(path).graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        scopes = [scope for scope, _ in stack.values() if scope]
        if node.op == "call_function" and scopes:
            found[scopes[-1].replace(".inner", "")] = node.name
    return found


def read_values(
    path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.floating]]:
    """Run a written graph and read values inside it.

    See ``formats.Writer``; a name may be an output's, too.
    """
    program = read_program(path)
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
