"""The options of the classifier."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexdetr.config_part import Part
from flexdetr.model.heads.options import Hidden


class ClassifierOptions(Part):
    """A linear layer behind the pooled coarsest level, with the layers between that its published networks have.

    Attributes:
        name: "classifier"; "orientation" is the same on pages of documents, whose classes are their four turns.
        features: channels of a 1x1 convolution with norm and activation before the pooling (the GhostNets: 960 at
            width 1, EfficientNet-Lite: 1280); None has none.
        activation: of that convolution.
        hidden: channels of a 1x1 convolution with ReLU after the pooling (PP-HGNet 2048, the GhostNets 1280); None has
            none.
        hidden_bias: whether that convolution has a bias.
        hidden_lab: whether a learnable affine block follows it (PP-HGNetV2 B0 to B3).
        dropout: share of the values before the linear layer that training drops.
        downscale: let training keep the others as they are and inference shrink all (Paddle's "downscale_in_infer", in
            PP-HGNet base); without, training enlarges those that it keeps.
        smoothing: share of the target that all classes divide equally (label smoothing).
    """

    name: Literal["classifier", "orientation"] = "classifier"
    features: Hidden | None = None
    activation: Literal["relu", "relu6"] = "relu"
    hidden: Hidden | None = None
    hidden_bias: bool = False
    hidden_lab: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    downscale: bool = False
    smoothing: float = Field(default=0.1, ge=0, lt=1)

    def check_levels(self, strides: tuple[int, ...]) -> None:
        """Any levels fit."""

    def summary(self) -> str:
        """The options in a few words."""
        between = [
            f"{width} {what}"
            for width, what in ((self.features, "features"), (self.hidden, "hidden"))
            if width
        ]
        return ", ".join(["pooled", *between, "linear"])
