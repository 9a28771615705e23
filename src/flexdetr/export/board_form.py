"""A detector in graphs of plain operations: fixed shapes, one picture, no tensor of more than four axes.

There are two, with the choice of queries between them; a dense head chooses nothing, and has one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from flexdetr.config_values import current_sections
from flexdetr.export.prepare import DeployForm
from flexdetr.model.detector import DetectionModel
from flexdetr.model.heads import DEFAULT
from flexdetr.model.heads.base import Head, Probes, head_class
from flexdetr.model.plain import Shapes, make_plain
from flexdetr.runtime import host, nms
from flexdetr.runtime.artifact import open_artifact
from flexdetr.runtime.board import INPUTS, OUTPUTS, OUTPUTS_OF_ONE


class Encode(nn.Module):
    """Picture -> memory, tokens, their scores and boxes; of a dense head, logits and boxes of all cells."""

    inputs = INPUTS[0]

    def __init__(self, detector: DetectionModel, shapes: Shapes) -> None:
        super().__init__()
        self.detector = detector
        self.outputs = OUTPUTS[0] if detector.head.limits is None else OUTPUTS_OF_ONE
        constants = detector.head.constants(shapes)
        self.names = tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) of 0 to 255 -> (1, S, D), (1, S, D), (1, S, C) logits, (1, S, 4) cxcywh fractions.

        Of a dense head (1, S, C) and (1, S, 4).
        """
        detector = self.detector
        levels = detector.encoder(detector.backbone(detector.normalise(image)))
        return detector.head.encode(levels, {name: self.get_buffer(name) for name in self.names})


class Decode(nn.Module):
    """Chosen queries and memory -> logits and boxes."""

    inputs, outputs = INPUTS[1], OUTPUTS[1]

    def __init__(self, detector: DetectionModel, shapes: Shapes, layers: int) -> None:
        super().__init__()
        self.detector = nn.Module()  # so that paths of layers are the same in both graphs
        self.detector.head = detector.head  # type: ignore[assignment]  # a head is an nn.Module
        self.shapes, self.layers = shapes, layers

    def forward(self, content: Tensor, reference: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(1, Q, D), (1, Q, 4) and (1, S, D) -> (1, Q, C) logits and (1, Q, 4) cxcywh fractions."""
        head: Head = self.detector.head  # type: ignore[assignment]
        return head.decode(content, reference, memory, self.shapes, self.layers)


def split(form: DeployForm, *, plain_norms: bool) -> tuple[Encode, Decode]:
    """Both graphs of a deploy form whose head chooses queries; the form is left as it is."""
    detector, shapes = _plain(form, plain_norms=plain_norms)
    layers = form.options.decoder_layers or detector.head.trained_layers
    decode = Decode(detector, shapes, layers).eval().requires_grad_(False)
    return _encode(detector, shapes), decode


def _plain(form: DeployForm, *, plain_norms: bool) -> tuple[DetectionModel, Shapes]:
    """A copy of the detector in plain operations, and the (height, width) of its levels."""
    height, width = form.options.size
    detector = copy.deepcopy(form.detector)
    shapes = [(height // stride, width // stride) for stride in detector.head.strides]
    make_plain(detector, shapes, plain_norms=plain_norms)
    return detector, shapes


def _encode(detector: DetectionModel, shapes: Shapes) -> Encode:
    return Encode(detector, shapes).eval().requires_grad_(False)


def probes_of(path: Path) -> Probes:
    """Where to look inside the head of a written artifact."""
    made = open_artifact(path, verify=False).metadata.made
    section = current_sections(made["config"])["head"]
    return head_class(section.get("name", DEFAULT)).probes(made["decoder_layers"])


def write_pair(
    form: DeployForm,
    folder: Path,
    names: tuple[str, str],
    save: Callable[[Encode | Decode, tuple[Tensor, ...], Path], None],
    *,
    plain_norms: bool,
) -> list[str]:
    """Write the graphs of a deploy form, and the numpy code that runs between and behind them.

    ``names`` are those of the files of the first and the second graph; a dense head has the first only.
    ``save`` writes one: the graph, what to trace it with, and its file.
    """
    image = torch.rand(1, form.options.channels, *form.options.size) * 255
    if form.detector.head.limits is not None:
        save(_encode(*_plain(form, plain_norms=plain_norms)), (image,), folder / names[0])
        return [names[0], *_copy_host_files(folder, host, nms)]
    encode, decode = split(form, plain_norms=plain_norms)
    with torch.no_grad():
        memory, tokens, _, boxes = encode(image)
    queries = min(form.options.queries or form.detector.head.queries, tokens.shape[1])
    save(encode, (image,), folder / names[0])
    save(decode, (tokens[:, :queries], boxes[:, :queries], memory), folder / names[1])
    return [*names, *_copy_host_files(folder, host)]


def _copy_host_files(folder: Path, *modules: ModuleType) -> list[str]:
    """Copy modules of numpy alone into a folder; their files' names."""
    places = [Path(str(module.__file__)) for module in modules]
    for place in places:
        (folder / place.name).write_text(place.read_text(encoding="utf-8"), encoding="utf-8")
    return [place.name for place in places]
