"""The first layer for pictures of other channels than three, made of RGB weights.

A channel's weights are those of red, green or blue in turn, times 3 / N: a picture whose channels are all alike gives
the same answer as before, and so all that follows gets values of the size that it was trained on (timm does the same).
For grey they are the sum over the three colours, which is exactly what a grey picture shown as RGB got, where the
backbone normalises nothing; ImageNet's means and deviations of the colours are averaged.
"""

from __future__ import annotations

from torch import Tensor, nn

from flexdetr.config import ConfigError

_RGB = 3


def adapt_input(backbone: nn.Module, channels: int) -> str:
    """Let a backbone made for RGB take pictures of other channels; its layer is changed in place.

    The backbone is any module with exactly one convolution of three channels.

    Returns:
        The name of the layer's weight within the backbone.

    Raises:
        ConfigError: if there is no such layer, or several.
    """
    found = [
        (name, part)
        for name, part in backbone.named_modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == _RGB and part.groups == 1
    ]
    if len(found) != 1:
        raise ConfigError(
            f"data.channels={channels} needs a backbone with one convolution that takes RGB, and this one has "
            f"{len(found)}: choose another backbone"
        )
    name, layer = found[0]
    layer.in_channels = channels
    layer.weight = nn.Parameter(adapted_weight(layer.weight.detach(), channels), layer.weight.requires_grad)
    return f"{name}.weight"


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """(O, 3, h, w) weights of RGB as (O, ``channels``, h, w); see above."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    order = [channel % _RGB for channel in range(channels)]
    return (weight[:, order] * (_RGB / channels)).contiguous()


def adapted_colour(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Means or deviations of red, green and blue for each of ``channels``."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[channel % _RGB] for channel in range(channels))
