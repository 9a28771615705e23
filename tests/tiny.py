"""The smallest detector that has every part of a large one."""

from __future__ import annotations

from typing import Any

import torch

from flexdetr.api import Detector


def tiny_detector(layers: int = 1, image_size: Any = 64) -> Detector:
    """A detector of cats and dogs, always with the same random weights."""
    torch.manual_seed(0)
    return Detector(
        "flexdetr_pico",
        classes=["cat", "dog"],
        image_size=image_size,
        backbone="hgnetv2_atto",
        encoder={"strides": (8, 16), "width": 32, "ffn": 48, "heads": 4},
        head={"width": 32, "layers": layers, "ffn": 48, "heads": 4, "queries": 20, "denoising": 0},
    )
