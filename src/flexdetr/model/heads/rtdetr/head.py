"""Query selection and the deformable decoder with iterative refinement.

RT-DETR, arXiv 2304.08069, section 4.3; refinement after Deformable DETR and DINO's look-forward-twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.deformable import DeformableAttention, Sampling
from flexdetr.model.denoising import Denoising, attention_allowed, inverse_sigmoid
from flexdetr.model.heads.base import Probes, Shapes
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.model.outputs import DenoisingPlan, Output, Prediction, Targets
from flexdetr.model.postprocess import best_pairs
from flexdetr.model.precision import precisely
from flexdetr.model.self_attention import MLP, FeedForward, SelfAttention

# Stands for an infinite logit: its sigmoid is 1 in every floating type, and it survives export and half precision.
_FAR = 1e4


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward; normalised after each sum."""

    def __init__(self, config: RTDETROptions, points: Sequence[int]) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.norm1 = nn.LayerNorm(config.width)
        self.cross_attention = DeformableAttention(config.width, config.heads, points, config.sampling)
        self.norm2 = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.ffn, nn.ReLU)
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
    """Chooses the best encoder tokens as queries and refines their boxes layer by layer.

    Args:
        options: the head's section of the configuration.
        channels: of each of the encoder's levels, finest first.
        strides: of those levels, finest first.
        num_classes: C.
    """

    def __init__(
        self, options: RTDETROptions, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        config = options
        width = config.width
        points = (config.points,) * len(strides) if isinstance(config.points, int) else config.points
        self.strides = tuple(strides)
        self.queries = config.queries
        self.eval_layers = config.eval_layers or config.layers
        self.input_proj = nn.ModuleList(ConvBNAct(count, width, 1, act=None) for count in channels)
        self.memory_proj = nn.Linear(width, width)
        self.memory_norm = nn.LayerNorm(width)
        self.encoder_score = nn.Linear(width, num_classes)
        self.encoder_box = MLP(width, width, 4, 3)
        self.query_position = MLP(4, 2 * width, width, 2)
        self.layers = nn.ModuleList(DecoderLayer(config, points) for _ in range(config.layers))
        self.scores = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(config.layers))
        self.boxes = nn.ModuleList(MLP(width, width, 4, 3) for _ in range(config.layers))
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
        return self._attentions()[0].sampling

    def sample_with(self, sampling: Sampling) -> None:
        """Sample in another way; discrete sampling stays, whose results have no other way."""
        for attention in self._attentions():
            if attention.sampling != "discrete":
                attention.sampling = sampling

    def _attentions(self) -> list[DeformableAttention]:
        return [part for part in self.layers.modules() if isinstance(part, DeformableAttention)]

    def fold(self, layers: int | None = None) -> None:
        """Drop denoising, and the decoder layers behind the first ``layers``."""
        self.denoising = None
        if layers is None:
            return
        if not 1 <= layers <= len(self.layers):
            raise ValueError(f"decoder_layers must be between 1 and {len(self.layers)}; got {layers}")
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
        anchors, valid = self.anchors(shapes, torch.zeros(1))
        return {"anchors": anchors, "valid": valid.float()}

    def encode(self, levels: Sequence[Tensor], constants: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Levels to memory, tokens, and scores and boxes of all tokens."""
        memory, _ = self.flatten(levels)
        tokens = self.memory_norm(self.memory_proj(memory * constants["valid"]))
        boxes = (precisely(self.encoder_box, tokens) + constants["anchors"]).sigmoid()
        return memory, tokens, precisely(self.encoder_score, tokens), boxes

    def decode(
        self, content: Tensor, reference: Tensor, memory: Tensor, shapes: Shapes, layers: int
    ) -> tuple[Tensor, Tensor]:
        """Chosen queries to logits and boxes."""
        answer = self.refine(content, reference, memory, shapes, None, layers)[-1]
        return answer.logits, answer.boxes

    def _initialise(self) -> None:
        rare = -math.log(99)  # every class starts at a score of 0.01
        for score in (self.encoder_score, *self.scores):
            nn.init.constant_(score.bias, rare)
        for head in (self.encoder_box, *self.boxes):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
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
        """Detect.

        Args:
            levels: encoder levels (B, D, h, w), finest first.
            targets: objects, in training only; denoising queries are drawn from them.
            decoder_layers: layers to run, at inference only; None runs the configured number.
            queries: queries to select; None selects the configured number.

        Returns:
            All predictions in training mode, only the final one in evaluation mode.

        Raises:
            ValueError: where ``decoder_layers`` or ``queries`` is not available.
        """
        count = self._layer_count(decoder_layers)
        queries = self.queries if queries is None else queries
        if queries < 1:
            raise ValueError(f"queries must be at least 1; got {queries}")
        memory, shapes = self.flatten(levels)
        content, box_logits, encoder = self.select(memory, shapes, queries)
        plan, allowed = None, None
        if self.training and self.denoising is not None and targets is not None:
            drawn = self.denoising(targets)
            if drawn is None:
                # No object in this batch: keep the embedding in the graph, so that all ranks reduce the same gradients.
                content = content + 0.0 * self.denoising.embedding.weight.sum().to(content.dtype)
            else:
                embedding, noisy, plan = drawn
                allowed = attention_allowed(plan, content.shape[1], content.device)
                content = torch.cat([embedding.to(content.dtype), content], 1)
                box_logits = torch.cat([noisy, box_logits], 1)
        predictions = self.refine(content, box_logits.sigmoid(), memory, shapes, allowed, count)
        return _assemble(predictions, encoder if self.training else None, plan)

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class."""
        return best_pairs(prediction, sizes, top)

    def _layer_count(self, asked: int | None) -> int:
        if self.training:
            if asked is not None:
                raise ValueError("decoder_layers is for inference; training supervises all layers")
            return len(self.layers)
        count = self.eval_layers if asked is None else asked
        if not 1 <= count <= len(self.layers):
            raise ValueError(f"decoder_layers must be between 1 and {len(self.layers)}; got {count}")
        return count

    def flatten(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Encoder levels -> memory (B, S, D) and each level's (height, width)."""
        projected = [project(level) for project, level in zip(self.input_proj, levels, strict=True)]
        shapes = [(level.shape[-2], level.shape[-1]) for level in projected]
        return torch.cat([level.flatten(2).transpose(1, 2) for level in projected], 1), shapes

    def anchors(self, shapes: Shapes, like: Tensor) -> tuple[Tensor, Tensor]:
        """One box a token: its cell's centre, with a side of 0.05 at stride 8 that doubles with the stride.

        Args:
            shapes: (height, width) of each level.
            like: gives the device, and the type where that is wider than float32.

        Returns:
            box logits (1, S, 4) and validity (1, S, 1): cells too near the border to start a box are not valid.
        """
        boxes = []
        options: dict[str, Any] = {
            "device": like.device,
            "dtype": torch.promote_types(like.dtype, torch.float32),
        }
        for (height, width), stride in zip(shapes, self.strides, strict=True):
            rows = (torch.arange(height, **options) + 0.5) / height
            columns = (torch.arange(width, **options) + 0.5) / width
            centre = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
            boxes.append(torch.cat([centre, torch.full_like(centre, 0.05 * stride / 8)], -1).flatten(0, 1))
        box = torch.cat(boxes)[None]
        valid = ((box > 0.01) & (box < 0.99)).all(-1, keepdim=True)
        return torch.where(valid, (box / (1 - box)).log(), _FAR), valid

    def select(self, memory: Tensor, shapes: Shapes, queries: int) -> tuple[Tensor, Tensor, Prediction]:
        """The tokens with the highest class score become queries.

        The box head runs on the selected tokens only: the others' boxes would be thrown away.

        Returns:
            content (B, Q, D) and box logits (B, Q, 4), both without gradient, and the tokens' own prediction.
        """
        anchors, valid = self.anchors(shapes, memory)
        tokens = self.memory_norm(self.memory_proj(memory * valid.to(memory.dtype)))
        scores = precisely(self.encoder_score, tokens)
        chosen = scores.max(-1).values.topk(min(queries, scores.shape[1]), dim=1).indices[..., None]
        content = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[-1]))
        logits = scores.gather(1, chosen.expand(-1, -1, scores.shape[-1]))
        anchors = anchors.expand(memory.shape[0], -1, -1).gather(1, chosen.expand(-1, -1, 4))
        box_logits = precisely(self.encoder_box, content) + anchors
        prediction = Prediction(logits, box_logits.sigmoid())
        return content.detach(), box_logits.detach(), prediction

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
            One prediction a layer in training, the last one alone in evaluation mode.
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


def _assemble(
    predictions: list[Prediction], encoder: Prediction | None, plan: DenoisingPlan | None
) -> Output:
    if plan is None:
        return Output(predictions[-1], tuple(predictions[:-1]), encoder)
    noisy = tuple(prediction.of(slice(plan.num_queries)) for prediction in predictions)
    clean = [prediction.of(slice(plan.num_queries, None)) for prediction in predictions]
    return Output(clean[-1], tuple(clean[:-1]), encoder, noisy, plan)
