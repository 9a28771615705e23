"""Fine-grained distribution refinement: every layer corrects the distributions of a box's edges.

D-FINE, arXiv 2410.13842, section 4.1. Queries are selected as in RT-DETR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.deformable import Sampling, attentions, sample_with
from flexdetr.model.denoising import Denoising, inverse_sigmoid
from flexdetr.model.distances import EdgeDistributions
from flexdetr.model.heads.base import Probes, Shapes
from flexdetr.model.heads.denoised import assemble, with_denoising
from flexdetr.model.heads.dfine.layer import DecoderLayer, ScoreHead
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.options import points_of_levels
from flexdetr.model.heads.selection import (
    RARE,
    Selection,
    anchors,
    flatten,
    layer_count,
    query_count,
    select,
)
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.model.postprocess import best_pairs
from flexdetr.model.precision import precisely
from flexdetr.model.self_attention import MLP, NONLINEARITIES, query_position

# Query positions are kept within this.
_FARTHEST = 10.0


class DFINEHead(nn.Module):
    """Chooses the best encoder tokens as queries; each layer adds to the logits of where their boxes' edges are.

    The first layer also gives a plain box, from which the distances of all layers are measured.
    """

    def __init__(
        self, options: DFINEOptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        config = options
        width, layers = config.width, config.layers
        activation = NONLINEARITIES[config.activation]
        points = points_of_levels(config.points, tuple(strides))
        corners = 4 * (config.reg_max + 1)
        self.strides = tuple(strides)
        # Published: 0.05 on the finest level, whatever its stride.
        self.anchor_sides = tuple(0.05 * stride / strides[0] for stride in strides)
        self.queries = config.queries
        self.eval_layers = config.eval_layers or layers
        self.input_proj = nn.ModuleList(
            ConvBNAct(count, width, 1, act=None) if count != width else nn.Identity() for count in channels
        )
        self.memory_proj = nn.Linear(width, width) if config.project_tokens else nn.Identity()
        self.memory_norm = nn.LayerNorm(width) if config.project_tokens else nn.Identity()
        self.encoder_score = nn.Linear(width, num_classes)
        self.encoder_box = MLP(width, width, 4, 3, activation)
        self.query_position = query_position(width, config.position_layers, activation)
        self.position_once = config.position_once
        self.layers = nn.ModuleList(DecoderLayer(config, points) for _ in range(layers))
        self.pre_box = MLP(width, width, 4, 3, activation)
        self.boxes = nn.ModuleList(
            MLP(width, width, corners, 3, activation) for _ in range(1 if config.shared_boxes else layers)
        )
        # By the layer's number, which stays when the deploy form drops some.
        self.scores = nn.ModuleDict(
            {str(index): ScoreHead(width, num_classes, activation) for index in range(layers)}
        )
        self.distributions = EdgeDistributions(config.reg_max, config.up, config.reg_scale)
        self.denoising = (
            Denoising(
                num_classes, width, config.denoising, config.label_noise, config.box_noise, mirrored=True
            )
            if config.denoising
            else None
        )
        self._initialise()

    limits = None
    selector = "encoder_score"

    @property
    def trained_layers(self) -> int:
        """Decoder layers that are trained."""
        return len(self.layers)

    @property
    def sampling(self) -> str:
        """How the memory is sampled."""
        return attentions(self.layers)[0].sampling

    def sample_with(self, sampling: Sampling) -> None:
        """Sample in another way; discrete sampling stays, whose results have no other way."""
        sample_with(self.layers, sampling)

    def fold(self, layers: int | None = None) -> None:
        """Drop denoising, the layers behind the first ``layers``, and the scores before the last of these.

        The box heads of all layers stay: their logits add up to the last layer's boxes.
        """
        self.denoising = None
        if layers is None:
            return
        layers = layer_count(layers, default=layers, trained=len(self.layers), training=False)
        self.layers, self.boxes = self.layers[:layers], self.boxes[:layers]
        last = str(layers - 1)
        self.scores = nn.ModuleDict({last: self.scores[last]})
        self.eval_layers = layers

    @staticmethod
    def class_rows() -> tuple[str, ...]:
        """Score heads, and the denoising embedding with one more row for the padding."""
        return (r"(encoder_score|scores\.\d+\.linear)\.(weight|bias)", r"denoising\.embedding\.weight")

    @staticmethod
    def sensitive() -> tuple[str, ...]:
        """Score and box heads, distributions, query positions, and where attention samples with which weights."""
        return (
            "",  # anchors, the choice of queries, the plain boxes, the sum of the corners' logits
            r"(encoder_score|encoder_box|pre_box|scores|boxes|distributions|query_position)(\..+)?",
            r"layers\.\d+\.cross_attention(\.(offsets|weights))?",
        )

    @staticmethod
    def probes(layers: int) -> Probes:
        """Where to look inside."""
        outputs = {"memory_norm": "0:tokens", "encoder_score": "0:scores", f"scores.{layers - 1}": "1:logits"}
        per_query = ("encoder_box", "layers", "pre_box", "boxes", "scores", "query_position")
        return Probes("encoder_box.layers.0", per_query, (), outputs)

    def constants(self, shapes: Shapes) -> dict[str, Tensor]:
        """Anchors, and which cells may start a box."""
        boxes, valid = anchors(shapes, self.anchor_sides, torch.zeros(1))
        return {"anchors": boxes, "valid": valid.float()}

    def encode(self, levels: Sequence[Tensor], constants: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Levels to memory, tokens, and scores and boxes of all tokens."""
        memory, _ = self.memory(levels)
        tokens = self.tokens(memory, constants["valid"])
        boxes = (precisely(self.encoder_box, tokens) + constants["anchors"]).sigmoid()
        return memory, tokens, precisely(self.encoder_score, tokens), boxes

    def decode(
        self, content: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, layers: int
    ) -> tuple[Tensor, Tensor]:
        """Chosen queries to logits and boxes."""
        _, predictions = self.refine(content, reference, memory, shapes, None, layers)
        return predictions[-1].logits, predictions[-1].boxes

    def _initialise(self) -> None:
        nn.init.constant_(self.encoder_score.bias, RARE)
        for head in (self.encoder_box, self.pre_box, *self.boxes):
            head.start_at_zero()
        for linear in (self.memory_proj, *self.query_position.layers):
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
        for projection in self.input_proj:
            if isinstance(projection, ConvBNAct):
                nn.init.xavier_uniform_(projection.conv.weight)

    def forward(
        self,
        levels: Sequence[Tensor],
        targets: Targets | None = None,
        *,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Output:
        """Detect; see ``Head``."""
        count = layer_count(
            decoder_layers, default=self.eval_layers, trained=len(self.layers), training=self.training
        )
        if str(count - 1) not in self.scores:
            raise ValueError(
                f"this deploy form scores after {len(self.layers)} decoder layers only; got {count}"
            )
        chosen = query_count(queries, self.queries)
        memory, shapes = self.memory(levels)
        selected = self.select(memory, shapes, chosen)
        content, box_logits, plan, allowed = with_denoising(
            selected, self.denoising if self.training else None, targets
        )
        pre, predictions = self.refine(content, box_logits.sigmoid(), memory, shapes, allowed, count)
        if not self.training:
            return assemble(predictions, None)
        return assemble(predictions, plan, encoder=selected.prediction, pre=pre)

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class."""
        return best_pairs(prediction, sizes, top)

    def _score_head(self, index: int) -> ScoreHead:
        return cast(ScoreHead, self.scores[str(index)])

    def memory(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Encoder levels -> memory (B, S, D) and each level's (height, width)."""
        return flatten([project(level) for project, level in zip(self.input_proj, levels, strict=True)])

    def tokens(self, memory: Tensor, valid: Tensor) -> Tensor:
        """What scores, boxes and queries are read from: (B, S, D), cells near the border without content."""
        return self.memory_norm(self.memory_proj(memory * valid.to(memory.dtype)))

    def select(self, memory: Tensor, shapes: Shapes, queries: int) -> Selection:
        """The tokens with the highest class score become queries."""
        boxes, valid = anchors(shapes, self.anchor_sides, memory)
        tokens = self.tokens(memory, valid)
        return select(tokens, precisely(self.encoder_score, tokens), boxes, self.encoder_box, queries)

    def refine(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        allowed: Tensor | None,
        count: int,
    ) -> tuple[Prediction | None, list[Prediction]]:
        """Run ``count`` layers; each adds to the logits of the corners' distances from the first layer's plain box.

        Gradients reach earlier layers through the queries and the sum of corners, not through reference boxes, the
        plain box or the queries that are added before a box head.

        Returns:
            The plain boxes with their scores, in training only; and one prediction per layer in training, the last one
            alone in evaluation mode.
        """
        predictions: list[Prediction] = []
        pre: Prediction | None = None
        start, corners, before = reference, None, None
        for index in range(count):
            if index == 0 or not self.position_once:
                position = precisely(self.query_position, reference).clamp(-_FARTHEST, _FARTHEST)
            query = self.layers[index](query, position.to(query.dtype), reference, memory, shapes, allowed)
            if index == 0:
                plain = (precisely(self.pre_box, query) + inverse_sigmoid(reference)).sigmoid()
                start = plain.detach()
                if self.training:
                    pre = Prediction(precisely(self._score_head(0).linear, query), plain)
            box_head = self.boxes[min(index, len(self.boxes) - 1)]
            step = precisely(box_head, query if before is None else query + before)
            corners = step if corners is None else corners + step
            boxes = precisely(self.distributions, corners, start)
            if self.training:
                logits = precisely(self._score_head(index), query, corners)
                predictions.append(Prediction(logits, boxes, corners, start))
            elif index == count - 1:
                predictions.append(Prediction(precisely(self._score_head(index), query, corners), boxes))
            before, reference = query.detach(), boxes.detach()
        return pre, predictions
