"""Fits the feature maps that a network has to the levels that an encoder wants."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from flexdetr.config import ConfigError
from flexdetr.model.blocks import ConvBNAct, init_weights


class LevelFit(nn.Module):
    """Picks levels by stride, and makes those that are missing where that is sound.

    - Several maps of one stride: the last, which saw the most layers.
    - A stride above the coarsest map: from the level before by a depthwise 3x3 convolution with stride 2 and
      a pointwise one, one octave at a time.
    - A stride below the finest map of a plain network (all maps at one stride, as a ViT has them): from its
    last map
      by transposed 2x2 convolutions, the channels halved at each, as ViTDet's simple feature pyramid
      (2203.16527) does; with BatchNorm for LayerNorm.
    - Anything else would invent detail or skip it, and is refused.

    Args:
        channels: of the network's maps, in order.
        strides: of the network's maps.
        wanted: strides of the levels to return, ascending.
        name: of the network, for the message.
        plain: the network has no stages: all its maps have one stride.

    Attributes:
        channels: of the returned levels.
        taken: for each returned level, the index of the map that it starts from; -1 if that is the level
            before.

    Raises:
        ConfigError: if a level cannot be had.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        wanted: Sequence[int],
        name: str,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.made = nn.ModuleDict()
        self.wanted = tuple(wanted)
        widths: list[int] = []
        taken: list[int] = []
        for stride in wanted:
            if stride in strides:
                source = len(strides) - 1 - list(reversed(strides)).index(stride)
                taken.append(source)
                widths.append(channels[source])
                continue
            source, width, module = self._make(channels, strides, stride, widths, plain)
            if module is None:
                raise ConfigError(_refusal(name, strides, stride, wanted))
            taken.append(source)
            widths.append(width)
            init_weights(module)
            self.made[str(stride)] = module
        self.taken = tuple(taken)
        self.channels = tuple(widths)

    def _make(
        self, channels: Sequence[int], strides: Sequence[int], stride: int, before: list[int], plain: bool
    ) -> tuple[int, int, nn.Module | None]:
        """(source, width, module) of a level that the network lacks; no module where that is unsound."""
        finest, coarsest = min(strides), max(strides)
        last = len(strides) - 1
        if stride > coarsest:
            octaves = _octaves(coarsest, stride)
            if before and octaves > 1:  # the level before has just been made from the coarsest map
                return -1, before[-1], _coarser(before[-1], 1)
            return last, channels[last], _coarser(channels[last], octaves) if octaves else None
        octaves = _octaves(stride, finest)
        if plain and octaves:
            width = channels[last] >> octaves
            return last, width, _finer(channels[last], octaves)
        return last, 0, None

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The network's maps -> the wanted levels, finest first."""
        levels: list[Tensor] = []
        for stride, source in zip(self.wanted, self.taken, strict=True):
            x = levels[-1] if source < 0 else maps[source]
            levels.append(self.made[str(stride)](x) if str(stride) in self.made else x)
        return levels


def _octaves(fine: int, coarse: int) -> int:
    """How many times ``fine`` doubles to ``coarse``; 0 if it does not."""
    octaves = (coarse // fine).bit_length() - 1
    return max(octaves, 0) if fine << max(octaves, 0) == coarse else 0


def _coarser(channels: int, octaves: int) -> nn.Module:
    layers = []
    for _ in range(octaves):
        layers += [
            ConvBNAct(channels, channels, 3, stride=2, groups=channels, act=None),
            ConvBNAct(channels, channels, 1),
        ]
    return nn.Sequential(*layers)


def _finer(channels: int, octaves: int) -> nn.Module:
    layers: list[nn.Module] = []
    for octave in range(octaves):
        half = channels >> (octave + 1)
        layers += [nn.ConvTranspose2d(channels >> octave, half, 2, stride=2), nn.BatchNorm2d(half), nn.GELU()]
    return nn.Sequential(*layers[:-1])  # the last one is followed by the encoder's projection


def _refusal(name: str, strides: Sequence[int], stride: int, wanted: Sequence[int]) -> str:
    has = ", ".join(str(known) for known in dict.fromkeys(strides))
    fitting = [str(known) for known in wanted if known in strides]
    return (
        f"backbone {name} has feature maps at strides {has}, and a level of stride {stride} cannot be made "
        f"from them without inventing detail; set encoder.strides=[{', '.join(fitting) or has}] or take "
        "another backbone"
    )
