"""The options of RT-DETR's head."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from flexdetr.config_part import Part
from flexdetr.model.heads.options import (
    Activation,
    BoxNoise,
    DenoisingQueries,
    Heads,
    Hidden,
    LabelNoise,
    Layers,
    Points,
    Queries,
    Sampling,
    Width,
    check_heads,
    check_layers,
    check_points,
)


class RTDETROptions(Part):
    """Query selection, deformable attention layers, score and box heads, and denoising.

    Attributes:
        name: "rtdetr".
        width: channels of queries and memory.
        layers: decoder layers that are trained.
        eval_layers: decoder layers that run at inference; None runs all.
        queries: selected queries.
        heads: attention heads.
        ffn: hidden width of the feed-forward networks.
        points: sampling points of each head, one number for each level or one for all.
        sampling: "bilinear", or RT-DETRv2's "discrete".
        activation: of feed-forward networks, box heads and query positions; DEIM takes "silu".
        position_layers: linear layers from a box to its query position: two with twice the width between them, or
            DEIM's three of one width.
        denoising: denoising queries aimed at in each group (0 trains without denoising).
        label_noise: share of denoising labels at risk; half of them are flipped.
        box_noise: size of the denoising boxes' noise, relative to half the box.
    """

    name: Literal["rtdetr"] = "rtdetr"
    width: Width = 256
    layers: Layers = 6
    eval_layers: Layers | None = None
    queries: Queries = 300
    heads: Heads = 8
    ffn: Hidden = 1024
    points: Points = 4
    sampling: Sampling = "bilinear"
    activation: Activation = "relu"
    position_layers: Literal[2, 3] = 2
    denoising: DenoisingQueries = 100
    label_noise: LabelNoise = 0.5
    box_noise: BoxNoise = 1.0

    @model_validator(mode="after")
    def _fits(self) -> RTDETROptions:
        check_layers(self.eval_layers, self.layers)
        check_heads(self.width, self.heads)
        return self

    def check_levels(self, strides: tuple[int, ...]) -> None:
        """Refuse options that do not fit the encoder's levels.

        Raises:
            ValueError: if the number of points per level is not the number of levels.
        """
        check_points(self.points, strides)

    def summary(self) -> str:
        """The options in a few words."""
        return f"{self.eval_layers or self.layers} layers, {self.queries} queries, width {self.width}"
