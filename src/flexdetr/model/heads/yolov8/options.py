"""The options of the dense head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from flexdetr.config_part import Part
from flexdetr.frozen import Frozen


class YOLOv8Options(Part):
    """A dense, anchor-free head in YOLOv8's form, its losses, and how its boxes are chosen.

    Attributes:
        name: "yolov8".
        bins: of the distribution of each distance, in sides of a cell.
        score: (box, class) pairs with a score above this go into suppression.
        iou: a box goes if its IoU with a better one of its class is above this.
        max_detections: detections that are kept at most.
        top_k: cells that an object claims at most in training.
        alpha: exponent of the score in the alignment.
        beta: exponent of the CIoU in the alignment.
        class_weight: weight of the binary cross-entropy.
        box_loss: a name of the box-loss family, like "ciou", "shape_iou".
        box_options: keyword arguments of the box loss.
        box_weight: weight of the box loss.
        dfl_weight: weight of the distribution focal loss.
    """

    name: Literal["yolov8"] = "yolov8"
    bins: int = Field(default=16, ge=3, le=128)
    score: float = Field(default=0.001, ge=0, le=1)
    iou: float = Field(default=0.7, ge=0, le=1)
    max_detections: int = Field(default=300, ge=1, le=100_000)
    top_k: int = Field(default=10, ge=1, le=1000)
    alpha: float = Field(default=0.5, ge=0, le=10)
    beta: float = Field(default=6.0, ge=0, le=20)
    class_weight: float = Field(default=0.5, ge=0, le=1e4)
    box_loss: str = "ciou"
    box_options: Frozen[Mapping[str, float]] = Field(default_factory=dict)
    box_weight: float = Field(default=7.5, ge=0, le=1e4)
    dfl_weight: float = Field(default=1.5, ge=0, le=1e4)

    def check_levels(self, strides: tuple[int, ...]) -> None:
        """Any levels fit."""

    def summary(self) -> str:
        """The options in a few words."""
        return f"dense, {self.bins} bins, NMS at IoU {self.iou:g}, {self.max_detections} detections"
