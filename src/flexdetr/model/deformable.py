"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3; RT-DETRv2's variants)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.model.gathering import gather_rows, sum_rows
from flexdetr.model.precision import precisely

# "gather" computes what "bilinear" does with plain gathers; exports choose it, configurations do not.
Sampling = Literal["bilinear", "discrete", "gather"]


class DeformableAttention(nn.Module):
    """Each query looks at a few learned points of each level around its reference box.

    A point is ``centre + offset / P_level * size / 2`` in fractions of the image (RT-DETR's box-relative offsets).

    Args:
        width: channels D of queries and memory.
        heads: H.
        points: sampling points of a head on each level, one number per level (RT-DETRv2 lets them differ).
        sampling: "bilinear" interpolates (v1, v2), "discrete" takes the nearest cell (v2's deployable variant).
        projected: project the memory to values, and what was gathered from them; D-FINE does neither.
    """

    point_share: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        points: Sequence[int],
        sampling: Sampling = "bilinear",
        *,
        projected: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.points = tuple(points)
        self.sampling: Sampling = sampling
        total = heads * sum(points)
        self.offsets = nn.Linear(width, 2 * total)
        self.weights = nn.Linear(width, total)
        self.value: nn.Module = nn.Linear(width, width) if projected else nn.Identity()
        self.output: nn.Module = nn.Linear(width, width) if projected else nn.Identity()
        share = torch.cat([torch.full((count,), 1 / count) for count in points])
        self.register_buffer("point_share", share[:, None], persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Zero weights, and offsets that start on rays of one direction per head, one step further a point."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, count + 1) for count in self.points])
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        with torch.no_grad():
            self.offsets.bias.copy_((rays[:, None] * steps[None, :, None]).flatten())
        for layer in (self.value, self.output):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Gather from the memory.

        Args:
            query: (B, Q, D).
            reference: (B, Q, 4) cxcywh fractions.
            memory: (B, S, D), levels one after the other, rows first.
            shapes: (height, width) of each level.

        Returns:
            (B, Q, D).
        """
        value = self.value(memory).view(query.shape[0], memory.shape[1], self.heads, -1)
        locations, weights = self.places(query, reference)
        return self.output(self.gather(value, locations, weights, shapes))

    def places(self, query: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Where each query looks, and how much it takes from there.

        Args:
            query: (B, Q, D).
            reference: (B, Q, 4) cxcywh fractions.

        Returns:
            locations (B, Q, H, P, 2) xy fractions, P over all levels, and weights (B, Q, H, P), summing to 1 over P.
        """
        batch, length, _ = query.shape
        offsets = precisely(self.offsets, query).view(batch, length, self.heads, -1, 2)
        weights = precisely(self.weights, query).view(batch, length, self.heads, -1).softmax(-1)
        centre, size = reference[:, :, None, None, :2], reference[:, :, None, None, 2:]
        return centre + offsets * (self.point_share.to(offsets.dtype) * 0.5) * size, weights

    def gather(
        self, value: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The weighted sum of sampled values.

        Args:
            value: (B, S, H, D / H).
            locations: (B, Q, H, P, 2) xy fractions, P over all levels.
            weights: (B, Q, H, P), summing to 1 over P.
            shapes: (height, width) of each level.

        Returns:
            (B, Q, D).
        """
        # PyTorch has no gradient of grid_sample on a Mac's GPU.
        on_mac = self.sampling == "bilinear" and value.device.type == "mps" and not _exporting()
        if self.sampling == "gather" or on_mac:
            return gather_rows(value, locations, weights, shapes, self.points)
        if self.sampling == "bilinear" and value.device.type == "cpu" and not _exporting():
            return sum_rows(value, locations, weights, shapes, self.points).to(value.dtype)
        batch, length = locations.shape[:2]
        maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B * H, D / H, S)
        places = locations.transpose(1, 2).flatten(0, 1)  # (B * H, Q, P, 2)
        levels = torch.split(maps, [height * width for height, width in shapes], dim=-1)
        sampled = [
            self._sample(torch.unflatten(level, -1, shape), place)
            for level, shape, place in zip(
                levels, shapes, torch.split(places, list(self.points), dim=2), strict=True
            )
        ]
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * H, 1, Q, P)
        mixed = (torch.cat(sampled, -1) * weights).sum(-1)
        return mixed.view(batch, -1, length).transpose(1, 2).to(value.dtype)

    def _sample(self, level: Tensor, place: Tensor) -> Tensor:
        """(N, C, h, w) at (N, Q, P, 2) -> (N, C, Q, P)."""
        if self.sampling == "bilinear":
            # The values are widened to the places' type, not the places narrowed: bf16 would round them to cells.
            grid = 2 * place - 1
            return F.grid_sample(
                level.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )
        height, width = level.shape[-2:]
        column = (place[..., 0] * width + 0.5).floor().clamp(0, width - 1)
        row = (place[..., 1] * height + 0.5).floor().clamp(0, height - 1)
        index = (row * width + column).long().flatten(1)[:, None].expand(-1, level.shape[1], -1)
        return level.flatten(2).gather(2, index).reshape(*level.shape[:2], *place.shape[1:3])


def _exporting() -> bool:
    """Whether a graph is being made, whose reader knows GridSample but not how a CPU does without."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def attentions(layers: nn.Module) -> list[DeformableAttention]:
    """The deformable attentions of a decoder's layers, first to last."""
    return [part for part in layers.modules() if isinstance(part, DeformableAttention)]


def sample_with(layers: nn.Module, sampling: Sampling) -> None:
    """Sample in another way; discrete sampling stays, whose results have no other way."""
    for attention in attentions(layers):
        if attention.sampling != "discrete":
            attention.sampling = sampling
