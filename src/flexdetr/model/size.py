"""How large a model is: parameters, and the arithmetic of one image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flexdetr.config import Config
from flexdetr.model.detector import DetectionModel


class Size(NamedTuple):
    """A model's size.

    Attributes:
        params: parameters, frozen ones included, buffers not.
        gflops: 1e9 operations for one image; a multiply-add counts as two, as this field publishes it.
    """

    params: int
    gflops: float


def measure(config: Config, num_classes: int = 80) -> Size:
    """The size of a configuration's model, without allocating its weights.

    Args:
        config: the whole configuration; ``image_size`` is the size of the image.
        num_classes: C, classes of the heads.
    """
    with torch.device("meta"):
        model = DetectionModel(config, num_classes)
    return measure_module(model, config.image_size)


def measure_module(model: nn.Module, image_size: tuple[int, int]) -> Size:
    """The size of a detection module, in the form that it has.

    Args:
        model: takes (B, 3, H, W) float images; is set to evaluation mode while it is measured.
        image_size: (height, width) of the image.
    """
    device = next(model.parameters()).device
    training = model.training
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        with torch.no_grad(), counter:
            model(torch.zeros(1, 3, *image_size, device=device))
    finally:
        model.train(training)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Size(params, counter.get_total_flops() / 1e9)
