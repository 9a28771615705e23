"""Query selection and the deformable decoder with iterative refinement.

RT-DETR, arXiv 2304.08069, section 4.3; refinement after Deformable DETR and DINO's look-forward-twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.deformable import DeformableAttention, Sampling, attentions, sample_with
from flexdetr.model.denoising import Denoising, inverse_sigmoid
from flexdetr.model.heads.base import Probes, Shapes
from flexdetr.model.heads.denoised import assemble, with_denoising
from flexdetr.model.heads.options import points_of_levels
from flexdetr.model.heads.rtdetr.options import RTDETROptions
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
from flexdetr.model.self_attention import (
    MLP,
    NONLINEARITIES,
    FeedForward,
    SelfAttention,
    query_position,
)


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward; normalised after each sum."""

    def __init__(self, config: RTDETROptions, points: Sequence[int]) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width)
        self.cross_attention = DeformableAttention(config.width, config.heads, points, config.sampling)
        self.norm2 = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.ffn, NONLINEARITIES[config.activation])
        self.norm3 = nn.LayerNorm(config.width)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: Shapes,
        allowed: Tensor | None,
    ) -> Tensor:
        """(B, Q, D) queries, their (B, Q, D) positions and (B, Q, 4) reference boxes -> (B, Q, D)."""
        query = self.norm1(query + self.attention(query, position, allowed))
        query = self.norm2(query + self.cross_attention(query + position, reference, memory, shapes))
        return self.norm3(query + self.feed_forward(query))


class RTDETRHead(nn.Module):
    """Chooses the best encoder tokens as queries and refines their boxes layer by layer."""

    def __init__(
        self, options: RTDETROptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        config = options
        width = config.width
        activation = NONLINEARITIES[config.activation]
        points = points_of_levels(config.points, tuple(strides))
        self.strides = tuple(strides)
        self.anchor_sides = tuple(0.05 * stride / 8 for stride in strides)
        self.queries = config.queries
        self.eval_layers = config.eval_layers or config.layers
        self.input_proj = nn.ModuleList(ConvBNAct(count, width, 1, act=None) for count in channels)
        self.memory_proj = nn.Linear(width, width)
        self.memory_norm = nn.LayerNorm(width)
        self.encoder_score = nn.Linear(width, num_classes)
        self.encoder_box = MLP(width, width, 4, 3, activation)
        self.query_position = query_position(width, config.position_layers, activation)
        self.layers = nn.ModuleList(DecoderLayer(config, points) for _ in range(config.layers))
        self.scores = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(config.layers))
        self.boxes = nn.ModuleList(MLP(width, width, 4, 3, activation) for _ in range(config.layers))
        self.denoising = (
            Denoising(num_classes, width, config.denoising, config.label_noise, config.box_noise)
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
        """Drop denoising, and the decoder layers behind the first ``layers``."""
        self.denoising = None
        if layers is None:
            return
        layers = layer_count(layers, default=layers, trained=len(self.layers), training=False)
        self.layers, self.scores, self.boxes = self.layers[:layers], self.scores[:layers], self.boxes[:layers]
        self.eval_layers = min(self.eval_layers, layers)

    @staticmethod
    def class_rows() -> tuple[str, ...]:
        """Score heads, and the denoising embedding with one more row for the padding."""
        return (r"(encoder_score|scores\.\d+)\.(weight|bias)", r"denoising\.embedding\.weight")

    @staticmethod
    def sensitive() -> tuple[str, ...]:
        """Score and box heads, query positions, and where deformable attention samples with which weights."""
        return (
            "",  # anchors, the choice of queries, the refinement of boxes
            r"(encoder_score|encoder_box|scores|boxes|query_position)(\..+)?",
            r"layers\.\d+\.cross_attention(\.(offsets|weights))?",
        )

    @staticmethod
    def probes(layers: int) -> Probes:
        """Where to look inside."""
        outputs = {"memory_norm": "0:tokens", "encoder_score": "0:scores", f"scores.{layers - 1}": "1:logits"}
        per_query = ("encoder_box", "layers", "boxes", "scores")
        return Probes("encoder_box.layers.0", per_query, (".cross_attention.value",), outputs)

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
        answer = self.refine(content, reference, memory, shapes, None, layers)[-1]
        return answer.logits, answer.boxes

    def _initialise(self) -> None:
        for score in (self.encoder_score, *self.scores):
            nn.init.constant_(score.bias, RARE)
        for head in (self.encoder_box, *self.boxes):
            head.start_at_zero()
        for linear in (self.memory_proj, *self.query_position.layers):
            nn.init.xavier_uniform_(linear.weight)
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection.get_parameter("conv.weight"))

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
        chosen = query_count(queries, self.queries)
        memory, shapes = self.memory(levels)
        selected = self.select(memory, shapes, chosen)
        content, box_logits, plan, allowed = with_denoising(
            selected, self.denoising if self.training else None, targets
        )
        predictions = self.refine(content, box_logits.sigmoid(), memory, shapes, allowed, count)
        return assemble(predictions, plan, encoder=selected.prediction if self.training else None)

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class."""
        return best_pairs(prediction, sizes, top)

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
    ) -> list[Prediction]:
        """Run ``count`` layers; each adds a step to the box of the layer before.

        In training a layer's output box lets the gradient into the previous layer's step (look forward twice), while
        the reference that the next layer attends around does not. Evaluation runs the last layer's heads only where
        an earlier box is needed for nothing but the next reference.

        Returns:
            One prediction per layer in training, the last one alone in evaluation mode.
        """
        predictions: list[Prediction] = []
        previous = reference
        for index in range(count):
            position = precisely(self.query_position, reference).to(query.dtype)
            query = self.layers[index](query, position, reference, memory, shapes, allowed)
            step = precisely(self.boxes[index], query)
            refined = (step + inverse_sigmoid(reference)).sigmoid()
            if self.training or index == count - 1:
                through = index > 0 and self.training
                boxes = (step + inverse_sigmoid(previous)).sigmoid() if through else refined
                predictions.append(Prediction(precisely(self.scores[index], query), boxes))
            previous, reference = refined, refined.detach()
        return predictions
