"""A tiny detector whose scores are spread, so that a wrong artifact cannot look right; and a small one that trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flexdetr.api import Detector
from flexdetr.classes import Classes

# Ids with a hole: whatever mistakes ids for positions fails.
CLASSES = Classes(("cat", "dog", "owl"), (1, 2, 7))
# What makes a preset small: a run of it takes a quarter less than flexdetr_pico's, and its files are small.
SMALL: dict[str, Any] = {
    "backbone": "hgnetv2_atto",
    "encoder": {"strides": [8, 16], "width": 32, "ffn": 48, "heads": 4},
    "head": {"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 20, "denoising": 10},
}
ONE_LAYER: dict[str, Any] = {**SMALL, "head": {**SMALL["head"], "layers": 1, "denoising": 0}}
# SMALL for the command line.
SMALL_WORDS = (
    *("--set", f"backbone={SMALL['backbone']}"),
    *(
        word
        for section in ("encoder", "head")
        for key, value in SMALL[section].items()
        for word in ("--set", f"{section}.{key}={value}")
    ),
)


def spread(model: nn.Module) -> None:
    """Weights as after training: scores from 0 to 1, boxes of many sizes, nothing that is 0 or 1 in a norm."""
    draw = torch.Generator().manual_seed(0)
    decoder: Any = model.get_submodule("head")
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean += 0.1 * torch.randn(part.running_mean.shape, generator=draw)
                part.running_var *= 0.5 + torch.rand(part.running_var.shape, generator=draw)
            if isinstance(part, nn.LayerNorm):
                part.bias += 0.1 * torch.randn(part.bias.shape, generator=draw)
        for score in (decoder.encoder_score, *decoder.scores):
            score.weight.copy_(0.6 * torch.randn(score.weight.shape, generator=draw))
            score.bias.fill_(-1.0)
        for box in (decoder.encoder_box, *decoder.boxes):
            last = box.layers[-1]
            last.weight.copy_(0.15 * torch.randn(last.weight.shape, generator=draw))


def tiny(size: tuple[int, int] = (64, 96), **changes: Any) -> Detector:
    torch.manual_seed(0)
    changes = {
        **SMALL,
        "image_size": size,
        "head": {**SMALL["head"], "denoising": 0},
    } | changes
    detector = Detector("flexdetr_pico", classes=CLASSES, **changes)
    spread(detector.model)
    return detector


def untrained() -> Detector:
    """A detector of cats and dogs with one decoder layer, for what does not ask what it finds."""
    torch.manual_seed(0)
    return Detector("flexdetr_pico", classes=["cat", "dog"], image_size=64, **ONE_LAYER)


def settled() -> Detector:
    """A detector whose queries are all of its 30 tokens: random scores nearly tie, so that bf16 would choose others."""
    encoder = {"strides": (16, 32), "width": 32, "ffn": 48, "heads": 4}
    head = {"width": 32, "layers": 2, "ffn": 48, "heads": 4, "queries": 30, "denoising": 0}
    return tiny(encoder=encoder, head=head)
