"""The options of RT-DETR's head."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from flexdetr.config_part import Part, shown


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
        denoising: denoising queries aimed at in each group (0 trains without denoising).
        label_noise: share of denoising labels at risk; half of them are flipped.
        box_noise: size of the denoising boxes' noise, relative to half the box.
    """

    name: Literal["rtdetr"] = "rtdetr"
    width: int = Field(default=256, gt=0, le=4096)
    layers: int = Field(default=6, gt=0, le=64)
    eval_layers: int | None = Field(default=None, gt=0, le=64)
    queries: int = Field(default=300, gt=0, le=100_000)
    heads: int = Field(default=8, gt=0, le=1024)
    ffn: int = Field(default=1024, gt=0, le=32_768)
    points: int | tuple[int, ...] = 4
    sampling: Literal["bilinear", "discrete"] = "bilinear"
    denoising: int = Field(default=100, ge=0, le=100_000)
    label_noise: float = Field(default=0.5, ge=0, le=1)
    box_noise: float = Field(default=1.0, ge=0, le=10)

    @field_validator("points")
    @classmethod
    def _some_points(cls, points: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if any(not 1 <= count <= 256 for count in (points if isinstance(points, tuple) else (points,))):
            raise ValueError(f"every level needs 1 to 256 points; got {shown(points)}")
        return points

    @model_validator(mode="after")
    def _layers_fit(self) -> RTDETROptions:
        if self.eval_layers is not None and self.eval_layers > self.layers:
            raise ValueError(
                f"eval_layers {self.eval_layers} is more than the {self.layers} layers that are trained"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads ({self.heads})")
        return self

    def check_levels(self, strides: tuple[int, ...]) -> None:
        """Refuse options that do not fit the encoder's levels.

        Raises:
            ValueError: if the number of points per level is not the number of levels.
        """
        if isinstance(self.points, tuple) and len(self.points) != len(strides):
            raise ValueError(
                f"head.points gives {len(self.points)} numbers for {len(strides)} levels "
                f"(encoder.strides {list(strides)}); give one for each level, or a single number"
            )

    def summary(self) -> str:
        """The options in a few words."""
        return f"{self.eval_layers or self.layers} layers, {self.queries} queries, width {self.width}"
