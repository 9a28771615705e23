"""Options that several heads have, and the checks of those that have to fit each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from flexdetr.config_part import shown

Width = Annotated[int, Field(gt=0, le=4096)]
Layers = Annotated[int, Field(gt=0, le=64)]
Queries = Annotated[int, Field(gt=0, le=100_000)]
Heads = Annotated[int, Field(gt=0, le=1024)]
Hidden = Annotated[int, Field(gt=0, le=32_768)]
DenoisingQueries = Annotated[int, Field(ge=0, le=100_000)]
LabelNoise = Annotated[float, Field(ge=0, le=1)]
BoxNoise = Annotated[float, Field(ge=0, le=10)]
Sampling = Literal["bilinear", "discrete"]
Activation = Literal["relu", "silu"]


def _some_points(points: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if any(not 1 <= count <= 256 for count in (points if isinstance(points, tuple) else (points,))):
        raise ValueError(f"every level needs 1 to 256 points; got {shown(points)}")
    return points


Points = Annotated[int | tuple[int, ...], AfterValidator(_some_points)]


def check_layers(eval_layers: int | None, layers: int) -> None:
    """Refuse to run layers that are not trained; raises ``ValueError``."""
    if eval_layers is not None and eval_layers > layers:
        raise ValueError(f"eval_layers {eval_layers} is more than the {layers} layers that are trained")


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that does not divide among the attention heads; raises ``ValueError``."""
    if width % heads:
        raise ValueError(f"width {width} is not divisible by heads ({heads})")


def check_points(points: int | tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Refuse points that are not those of the encoder's levels; raises ``ValueError``."""
    if isinstance(points, tuple) and len(points) != len(strides):
        raise ValueError(
            f"head.points gives {len(points)} numbers for {len(strides)} levels "
            f"(encoder.strides {list(strides)}); give one for each level, or a single number"
        )


def points_of_levels(points: int | tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Sampling points of each level."""
    return (points,) * len(strides) if isinstance(points, int) else points
