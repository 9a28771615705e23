"""The detector: backbone, encoder and head built from one configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from flexdetr.config import Config, ConfigError, nearest
from flexdetr.model.backbones import build_backbone
from flexdetr.model.backbones.base import IMAGENET_MEAN, IMAGENET_STD, NO_MEAN, NO_STD
from flexdetr.model.encoder import HybridEncoder, encoder_channels
from flexdetr.model.fuse import FuseError
from flexdetr.model.heads import HEADS
from flexdetr.model.heads.base import build_head
from flexdetr.model.input_layer import adapt_input, adapted_colour
from flexdetr.model.inserts import build_insert
from flexdetr.model.outputs import Observed, Output, Targets
from flexdetr.model.pruned import narrow

# What of the configuration decides about the module.
SECTIONS = ("backbone", "encoder", "head", "attention", "pruned")


class DetectionModel(nn.Module):
    """A detector; with a classifier for its head and nothing to do for its encoder, a classifier.

    ``config`` is the whole configuration; the ``SECTIONS`` and ``data.channels`` are read. ``backbone`` is a
    module of the user's in place of the configured one; see ``custom_backbone``.

    Attributes:
        channels: of the pictures; 3 is RGB.
        input_weight: name of the first layer's weight where it is not one for RGB; empty where it is.
        mean: of each channel, which ``normalise`` subtracts from images in [0, 1].
        std: of each channel, which it divides by.
        fused: True for the deploy form that ``fuse`` makes.

    Raises:
        ConfigError: if a part is unknown or does not fit.
    """

    fused: bool = False

    def __init__(self, config: Config, num_classes: int, backbone: nn.Module | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"a detector needs at least one class; got {num_classes}")
        in_backbone, in_encoder = _places(config)
        self.num_classes = num_classes
        part = config.backbone if backbone is None else backbone
        self.backbone = build_backbone(part, config.encoder.backbone_strides, in_backbone)
        self.channels, self.input_weight = config.data.channels, ""
        mean, std = self.backbone.mean, self.backbone.std
        if HEADS[config.head.name].imagenet and (mean, std) == (NO_MEAN, NO_STD):
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        self.mean: tuple[float, ...] = mean
        self.std: tuple[float, ...] = std
        if self.channels != len(mean):
            self.input_weight = f"backbone.{adapt_input(self.backbone, self.channels)}"
            self.mean, self.std = adapted_colour(mean, self.channels), adapted_colour(std, self.channels)
        # (2, C, 1, 1). No buffer: it belongs to no checkpoint, and stays float32 whatever the weights become.
        self._mean_std = torch.tensor([self.mean, self.std], dtype=torch.float32)[..., None, None]
        channels = encoder_channels(self.backbone.channels, config.encoder)
        widths = dict(zip(config.encoder.strides, channels, strict=True))
        self.encoder = HybridEncoder(
            self.backbone.channels,
            config.encoder,
            {stride: build_insert(name, widths[stride]) for stride, name in in_encoder.items()},
        )
        self.head = build_head(config.head, channels, config.encoder.strides, num_classes)
        narrow(self, config.pruned)

    def train(self, mode: bool = True) -> Self:
        """Like ``nn.Module.train``.

        Raises:
            FuseError: if this is the deploy form.
        """
        if mode and self.fused:
            raise FuseError(
                "this model is the deploy form, which cannot be trained; train the model it was made from"
            )
        return super().train(mode)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> the float images that the backbone was made for."""
        scaled = images.float() / 255
        if not any(self.mean) and set(self.std) == {1.0}:
            return scaled
        known = self._mean_std
        mean, std = known if known.device == scaled.device else known.to(scaled.device)
        return (scaled - mean) / std

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``to`` and its relatives call; the mean and the deviation go along, so that no image waits for them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it
        device = next(self.parameters()).device
        if device.type != "meta":  # which would forget the values
            self._mean_std = self._mean_std.to(device)
        return self

    def forward(
        self,
        images: Tensor,
        targets: Targets | None = None,
        *,
        decoder_layers: int | None = None,
        queries: int | None = None,
    ) -> Output:
        """Detect.

        Args:
            images: (B, C, H, W) float, normalised (see ``normalise``); H and W divisible by 32.
            targets: objects for the denoising queries; training mode only.
            decoder_layers: layers to run at inference, fewer than were trained; None runs the configured number.
            queries: queries to select; None selects the configured number.

        Returns:
            The predictions; in evaluation mode only ``final``.

        Raises:
            ValueError: if the size is not divisible by 32 or ``decoder_layers`` does not exist.
        """
        _check_sides(images)
        levels = self.encoder(self.backbone(images))
        return self.head(levels, targets, decoder_layers=decoder_layers, queries=queries)

    def observed(self, images: Tensor, targets: Targets | None = None) -> Observed:
        """What ``forward`` computes, with the levels on the way, for losses that look at them."""
        _check_sides(images)
        within = self.encoder.within(self.backbone(images))
        levels = self.encoder.across(within)
        return Observed(self.head(levels, targets), levels, within[-1])


def _check_sides(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height % 32 or width % 32:
        raise ValueError(f"image sides must be divisible by 32; got {height}x{width}")


def _places(config: Config) -> tuple[dict[int, str], dict[int, str]]:
    """The inserts after backbone stages and after encoder levels, by stride."""
    places: dict[str, dict[int, str]] = {"backbone": {}, "encoder": {}}
    for place, name in config.attention.items():
        part, _, stride = place.partition(".")
        if part not in places or not stride.isdigit():
            raise ConfigError(
                f"attention.{place}: a place is backbone.STRIDE or encoder.STRIDE, like backbone.16"
            )
        if part == "encoder" and int(stride) not in config.encoder.strides:
            known = [f"encoder.{known}" for known in config.encoder.strides]
            raise ConfigError("attention: " + nearest(place, known, "place"))
        places[part][int(stride)] = name
    return places["backbone"], places["encoder"]
