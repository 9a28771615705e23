"""A decoupled, anchor-free head that answers for every cell of every level, in YOLOv8's form.

Boxes are distributions of four distances (generalised focal loss, arXiv 2006.04388); there is no objectness, and
overlapping answers are suppressed afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.c2f import with_yolov8_norms
from flexdetr.model.heads.base import Probes, Shapes
from flexdetr.model.heads.yolov8.cells import cell_boxes, decode, expectation
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.model.outputs import Output, Prediction, Targets
from flexdetr.model.precision import precisely
from flexdetr.model.suppression import after_suppression
from flexdetr.runtime.nms import Limits

# Before training each class is expected on 5 of the cells of a 640-pixel image of the level's stride.
_EXPECTED, _IMAGE = 5, 640


class YOLOv8Head(nn.Module):
    """Two branches per level: distributions of distances, and class logits.

    ``limits``, what boxes are chosen by, may be changed between predictions.
    """

    def __init__(
        self, options: YOLOv8Options, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.bins = options.bins
        self.limits = Limits(options.score, options.iou, options.max_detections)
        # As released, all levels take their widths from the finest one.
        of_boxes = max(64, channels[0] // 4)
        of_scores = max(channels[0], min(num_classes, 100))
        self.box_towers = nn.ModuleList(_tower(count, of_boxes) for count in channels)
        self.score_towers = nn.ModuleList(_tower(count, of_scores) for count in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(of_boxes, 4 * options.bins, 1) for _ in channels)
        self.scores = nn.ModuleList(nn.Conv2d(of_scores, num_classes, 1) for _ in channels)
        self.all_scores = nn.Identity()  # where every cell's logits pass, to be looked at
        with torch.no_grad():
            for stride, box, score in zip(self.strides, self.boxes, self.scores, strict=True):
                box.get_parameter("bias").fill_(1)
                score.get_parameter("bias").fill_(math.log(_EXPECTED / num_classes / (_IMAGE / stride) ** 2))

    selector = "all_scores"
    eval_layers = 1
    trained_layers = 1
    sampling = "none"

    @property
    def queries(self) -> int:
        """Answers that are kept at most."""
        return self.limits.max_detections

    def forward(
        self,
        levels: Sequence[Tensor],
        targets: Targets | None = None,  # noqa: ARG002 - a head of queries makes noisy ones of them
        *,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Output:
        """Detect: logits and boxes of all cells, level after level, rows first.

        In training they come with their distributions, and the cells as reference.
        """
        if decoder_layers not in (None, 1):
            raise ValueError(f"head=yolov8 has no decoder layers to choose from; got {decoder_layers}")
        if queries not in (None, self.queries):
            raise ValueError(
                f"head=yolov8 has no queries; set head.max_detections to keep {queries} detections at most"
            )
        every, scores = self._distributions(levels)
        cells = cell_boxes([(level.shape[-2], level.shape[-1]) for level in levels], every)
        boxes = decode(expectation(every.reshape(*every.shape[:2], 4, self.bins)), cells)
        if not self.training:
            return Output(Prediction(scores, boxes))
        return Output(Prediction(scores, boxes, every, cells.expand(len(boxes), -1, -1)))

    def _distributions(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Distributions (B, N, 4 x bins) and logits (B, N, C) of all cells."""
        corners, logits = [], []
        for index, level in enumerate(levels):
            corners.append(precisely(self.boxes[index], self.box_towers[index](level)).flatten(2))
            logits.append(precisely(self.scores[index], self.score_towers[index](level)).flatten(2))
        every = torch.cat(corners, 2).transpose(1, 2)
        return every, self.all_scores(torch.cat(logits, 2).transpose(1, 2))

    def constants(self, shapes: Shapes) -> dict[str, Tensor]:
        """The cells, and the distances that bins stand for."""
        return {
            "cells": cell_boxes(shapes, torch.zeros(1)),
            "bins": torch.arange(self.bins, dtype=torch.float32),
        }

    def encode(self, levels: Sequence[Tensor], constants: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits and boxes of all cells: nothing is chosen before suppression."""
        every, scores = self._distributions(levels)
        bins = every.reshape(*every.shape[:2], 4, self.bins)
        return scores, decode(expectation(bins, constants["bins"]), constants["cells"])

    def answer(self, prediction: Prediction, sizes: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of box and class that suppression leaves."""
        return after_suppression(prediction, sizes, self.limits, top)

    def sample_with(self, sampling: str) -> None:
        """Nothing is sampled."""

    def fold(self, layers: int | None = None) -> None:
        """Nothing is for training only.

        Raises:
            ValueError: if ``layers`` is not 1 or None.
        """
        if layers not in (None, 1):
            raise ValueError(f"head=yolov8 has no decoder layers to choose from; got {layers}")

    @staticmethod
    def class_rows() -> tuple[str, ...]:
        """The last convolutions of the class branches."""
        return (r"scores\.\d+\.(weight|bias)",)

    @staticmethod
    def sensitive() -> tuple[str, ...]:
        """The last convolutions, and what is computed of their distributions."""
        return ("", r"(boxes|scores|all_scores)(\..+)?")

    @staticmethod
    def probes(layers: int) -> Probes:  # noqa: ARG004 - as other heads
        """Every row is a cell, in one order: nothing is selected inside."""
        return Probes("", (), (), {})


def _tower(channels: int, width: int) -> nn.Module:
    return with_yolov8_norms(
        nn.Sequential(ConvBNAct(channels, width, 3, act="silu"), ConvBNAct(width, width, 3, act="silu"))
    )
