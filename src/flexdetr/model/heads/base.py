"""What every head can do: all that the rest of the product knows about heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from flexdetr.model.heads import HEADS, HeadOptions
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.part_table import load_part
from flexdetr.runtime.nms import Limits

Shapes = Sequence[tuple[int, int]]


class Probes(NamedTuple):
    """Where to look inside a head when a written graph is compared with the model; paths are inside the head.

    Attributes:
        content: the first layer that sees the selected queries.
        per_query: beginnings of the paths of layers whose rows are queries, which may come in another order.
        per_token: ends of the paths of layers among these whose rows are all tokens.
        split: the layers whose outputs are outputs of the two graphs for boards: path -> "0:NAME" or "1:NAME".
    """

    content: str
    per_query: tuple[str, ...]
    per_token: tuple[str, ...]
    split: Mapping[str, str]


class Head(Protocol):
    """From the encoder's levels to an answer; an ``nn.Module``, built as ``build_head`` says.

    Attributes:
        strides: of the levels that it takes, finest first.
        queries: answers that it selects unless told otherwise.
        eval_layers: decoder layers that run at inference unless told otherwise.
        limits: what suppression chooses boxes by; None in a head whose answers do not overlap.
        selector: path inside the head of the layer whose largest class score chooses the queries, (B, S, C) logits;
            empty in a head that chooses nothing. Such a head is exported whole: its logits alone are no answer.
    """

    strides: tuple[int, ...]
    queries: int
    eval_layers: int
    limits: Limits | None
    selector: str

    def __init__(
        self, options: HeadOptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None: ...

    def __call__(
        self,
        levels: Sequence[Tensor],
        targets: Targets | None = None,
        *,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Output:
        """Predictions of encoder levels.

        Args:
            levels: (B, D_l, h, w), finest first.
            targets: objects, in training only; a head with denoising draws its queries from them.
            decoder_layers: layers to run, at inference only; None runs the configured number.
            queries: queries to select; None selects the configured number, and a head without queries takes no other.

        Returns:
            All predictions in training mode, only the final one in evaluation mode.

        Raises:
            ValueError: if ``decoder_layers`` or ``queries`` is not available.
        """
        ...

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """What is detected, of a prediction in evaluation mode; it is traced when a graph is exported.

        Args:
            prediction: of B images.
            sizes: (B, 2) height and width of the original images.
            top: detections to keep at most.

        Returns:
            boxes (B, K, 4) xyxy pixels of the original images, clipped to them; scores (B, K) in [0, 1]; labels (B, K)
            int64 head indices; best first.
        """
        ...

    def get_submodule(self, target: str) -> nn.Module:
        """A layer by its path inside the head."""
        ...

    @property
    def trained_layers(self) -> int:
        """Decoder layers that are trained."""
        ...

    @property
    def sampling(self) -> str:
        """How the memory is sampled."""
        ...

    def sample_with(self, sampling: str) -> None:
        """Sample in another way; a head that was trained with discrete sampling keeps to it."""
        ...

    def fold(self, layers: int | None = None) -> None:
        """Drop, in place, what inference does not need.

        Args:
            layers: decoder layers to keep; None keeps all, so that the number can still be chosen at inference.

        Raises:
            ValueError: if ``layers`` does not exist.
        """
        ...

    @staticmethod
    def class_rows() -> tuple[str, ...]:
        """Patterns of the names, inside the head, of parameters with one row per class (the first C of them)."""
        ...

    @staticmethod
    def sensitive() -> tuple[str, ...]:
        """Patterns of the paths, inside the head, of modules whose own operations compute in float32 in any precision.

        Boxes, scores, and what decides where to sample: eight bits know a place to a 255th of the range, which is
        pixels, and one row of the memory among thousands not at all. Scores that were rounded tie, and ties decide
        the ranking. The empty path is the head itself. In PyTorch the head calls its layers among them, and any product
        of matrices of its own there, through ``flexdetr.model.precision.precisely``.
        """
        ...

    @staticmethod
    def probes(layers: int) -> Probes:
        """Where to look inside, of a head that runs this many decoder layers."""
        ...

    def constants(self, shapes: Shapes) -> dict[str, Tensor]:
        """What ``encode`` needs that follows from the levels' (height, width) alone."""
        ...

    def encode(self, levels: Sequence[Tensor], constants: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The part before the choice of queries, for boards, which choose on the host.

        Returns:
            memory (B, S, D), tokens (B, S, D), class logits (B, S, C) and cxcywh boxes (B, S, 4) of all tokens; of a
            dense head, which has ``limits`` and chooses nothing before suppression, the logits and the boxes alone.
        """
        ...

    def decode(
        self, content: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, layers: int
    ) -> tuple[Tensor, Tensor]:
        """The part behind the choice of queries; a dense head has none.

        Args:
            content: (B, Q, D) chosen tokens.
            reference: (B, Q, 4) their boxes, cxcywh fractions.
            memory: (B, S, D).
            shapes: (height, width) of each level.
            layers: decoder layers to run.

        Returns:
            Logits (B, Q, C) and boxes (B, Q, 4) cxcywh fractions.
        """
        ...


def head_class(name: str) -> type[Head]:
    """The class of a row of ``HEADS``."""
    found: type[Head] = load_part(HEADS[name].module)
    return found


def build_head(
    options: HeadOptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
) -> Head:
    """The head of a section of the configuration.

    Args:
        options: the section.
        channels: of each of the encoder's levels, finest first.
        strides: of those levels, finest first.
        num_classes: C.
    """
    return head_class(options.name)(options, channels, strides, num_classes)
