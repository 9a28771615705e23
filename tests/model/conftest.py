"""Small detectors that use every part, and weights that let a mistake be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexdetr.config import Config, build, merge
from flexdetr.model.outputs import Prediction, Targets

SMALL: dict[str, Any] = {
    "image_size": [64, 96],
    "backbone": {"name": "hgnetv2_atto"},
    "encoder": {"strides": [8, 16], "width": 32, "ffn": 48, "heads": 4, "expansion": 0.5, "depth": 0.34},
    "head": {"width": 32, "layers": 3, "ffn": 48, "heads": 4, "queries": 20, "denoising": 10},
}


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """A function (changes by section) -> the configuration of a detector of 0.3 M parameters."""

    def make(**changes: Any) -> Config:
        return build(merge(SMALL, changes))

    return make


@pytest.fixture(scope="session")
def randomise() -> Callable[..., nn.Module]:
    """A function (module, images) that gives it weights and statistics as after training: nothing is 0 or 1.

    Where it is given images, the statistics of norms are those of their features: a sum of many branches grows from
    layer to layer without that, to numbers of which float32 keeps no difference.
    """

    def change(module: nn.Module, images: Tensor | None = None) -> nn.Module:
        draw = torch.Generator().manual_seed(0)
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim < 2 or not parameter.any():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
            for part in norms:
                part.running_mean += 0.1 * torch.randn(part.running_mean.shape, generator=draw)
                part.running_var *= 0.5 + torch.rand(part.running_var.shape, generator=draw)
            if images is not None:
                momenta = [part.momentum for part in norms]
                for part in norms:
                    part.momentum = 0.9
                module.train()(images)
                for part, momentum in zip(norms, momenta, strict=True):
                    part.momentum = momentum
        return module

    return change


@pytest.fixture(scope="session")
def query_difference() -> Callable[[Prediction, Prediction], float]:
    """A function (got, want) -> the largest difference, relative to the largest logit.

    Each query is compared with the nearest one: selection sorts by scores that rounding may swap.
    """

    def compare(got: Prediction, want: Prediction) -> float:
        ours, theirs = (torch.cat([each.logits, 4 * each.boxes], -1).double() for each in (got, want))
        distances = torch.cdist(ours, theirs, p=torch.inf)
        largest = torch.max(distances.amin(1).max(), distances.amin(2).max())
        return (largest / want.logits.abs().max()).item()

    return compare


@pytest.fixture
def objects() -> Callable[..., Targets]:
    """A function (objects of each image) -> targets with boxes well inside the image and classes below 4."""

    def make(*counts: int) -> Targets:
        draw = torch.Generator().manual_seed(sum(counts))
        return Targets(
            [torch.randint(4, (count,), generator=draw) for count in counts],
            [0.25 + 0.5 * torch.rand(count, 4, generator=draw) for count in counts],
            list(range(len(counts))),
        )

    return make


@pytest.fixture(scope="session")
def image() -> Callable[..., Tensor]:
    """A function (batch, height, width) -> uniform noise in [0, 1]."""

    def make(batch: int = 1, height: int = 64, width: int = 96) -> Tensor:
        return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))

    return make
