"""The options of D-FINE's head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class DFINEOptions(Part):
    """RT-DETR's queries, with boxes as distributions of their edges that every layer corrects.

    Attributes:
        name: "dfine".
        width: channels of queries and memory.
        layers: decoder layers that are trained.
        eval_layers: decoder layers that run at inference; None runs all.
        queries: selected queries.
        heads: attention heads.
        ffn: hidden width of the feed-forward networks.
        points: sampling points of each head, one number for each level or one for all; published are (3, 6, 3).
        sampling: "bilinear", or RT-DETRv2's "discrete".
        activation: of feed-forward networks, box heads, query positions and quality estimators: D-FINE's "relu" or
            DEIM's "silu".
        reg_max: bins of an edge's distribution less one, an even number.
        reg_scale: a box's size in the unit of the distances; the finer steps of a larger one suit larger models.
        up: half the largest distance, in shares of ``reg_scale``.
        norm: of the decoder layers: "layer", or DEIMv2's "rms" (no mean is subtracted).
        feed_forward: "linear" (two layers), or DEIMv2's "swiglu", whose ``ffn`` counts gate and value together.
        gate: weigh what a query was against what it attended to; DEIMv2's smallest models add the two.
        project_tokens: score and take as queries a projection of the memory; DEIMv2 takes the memory itself.
        position_layers: linear layers of the query position: two with twice the width between them, or three.
        position_once: compute the query position from the selected boxes and keep it in all layers, as DEIMv2;
            otherwise it follows the boxes from layer to layer.
        shared_boxes: one box head for all layers, as DEIMv2's smallest models.
        denoising: denoising queries aimed at in each group (0 trains without denoising).
        label_noise: share of denoising labels at risk; half of them are flipped.
        box_noise: size of the denoising boxes' noise, relative to half the box.
        fgl_weight: weight of the fine-grained localization loss (0: none).
        ddf_weight: weight of the distillation of earlier layers by the last one (0: none).
        unite: take box terms over the union of all layers' matches.
    """

    name: Literal["dfine"] = "dfine"
    width: Width = 256
    layers: Layers = 6
    eval_layers: Layers | None = None
    queries: Queries = 300
    heads: Heads = 8
    ffn: Hidden = 1024
    points: Points = 4
    sampling: Sampling = "bilinear"
    activation: Activation = "relu"
    reg_max: Annotated[int, Field(ge=8, le=256, multiple_of=2)] = 32
    reg_scale: Annotated[float, Field(gt=0, le=1000)] = 4.0
    up: Annotated[float, Field(gt=0, le=100)] = 0.5
    norm: Literal["layer", "rms"] = "layer"
    feed_forward: Literal["linear", "swiglu"] = "linear"
    gate: bool = True
    project_tokens: bool = True
    position_layers: Literal[2, 3] = 2
    position_once: bool = False
    shared_boxes: bool = False
    denoising: DenoisingQueries = 100
    label_noise: LabelNoise = 0.5
    box_noise: BoxNoise = 1.0
    fgl_weight: Annotated[float, Field(ge=0, le=1e4)] = 0.15
    ddf_weight: Annotated[float, Field(ge=0, le=1e4)] = 1.5
    unite: bool = True

    @model_validator(mode="after")
    def _fits(self) -> DFINEOptions:
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
