"""What every backbone offers, and the freezing and learning-rate rules that they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn

from flexdetr.model.blocks import LearnableAffineBlock

# Detectors of the RT-DETR family feed images in [0, 1] as they are; ImageNet classifiers subtract and divide.
NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Colour = tuple[float, float, float]


class Backbone(Protocol):
    """An ``nn.Module`` from images to levels, which says about itself all that the detector has to know.

    Attributes:
        channels: of each level, finest level first.
        strides: of each level.
        mean: RGB mean that is subtracted from images in [0, 1].
        std: RGB deviation that they are divided by.
        lr_mult: learning rate relative to the detector's when the backbone starts from trained weights.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Colour
    std: Colour
    lr_mult: float

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> one (B, C_l, H / s_l, W / s_l) map per level, rounded up."""
        ...

    def freeze(self, *, stem: bool, stages: int, norms: bool) -> None:
        """Keep parts as they are: no gradient, and batch norms with their running statistics.

        Args:
            stem: freeze all that runs before the first stage.
            stages: freeze the stem and this many of the first stages.
            norms: freeze every norm.

        Raises:
            ConfigError: if the backbone has fewer stages, or none.
        """
        ...

    def lr_multipliers(self) -> dict[str, float]:
        """Learning rate of single parameters relative to the backbone's, by name; 1 for those not named."""
        ...


NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def freeze_parameters(parameters: Iterable[nn.Parameter]) -> None:
    """Stops the gradient of each parameter."""
    for parameter in parameters:
        parameter.requires_grad_(False)


def norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Scales and shifts of every norm below ``module``."""
    for part in module.modules():
        if isinstance(part, NORMS):
            yield from part.parameters(recurse=False)


def hold_frozen_norms(module: nn.Module) -> None:
    """Puts batch norms whose scale is frozen in evaluation mode; to be called by every ``train``.

    The rule reads the parameters and keeps no list, so that it survives copies and the conversion to
    SyncBatchNorm.
    """
    for part in module.modules():
        frozen = isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine
        if frozen and not part.weight.requires_grad:
            part.eval()


def affine_block_multipliers(module: nn.Module, multiplier: float) -> dict[str, float]:
    """The multiplier for each parameter of a LearnableAffineBlock below ``module``, by name."""
    return {
        f"{name}.{own}" if name else own: multiplier
        for name, part in module.named_modules()
        if isinstance(part, LearnableAffineBlock)
        for own, _ in part.named_parameters(recurse=False)
    }
