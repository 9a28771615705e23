"""YOLOv8's backbone: 3x3 convolutions with stride 2, C2f blocks, and spatial pyramid pooling on the coarsest stage.

There is no paper of it; widths, depths and layers are those of the public release tables, and of KerasCV's
``YOLOV8Backbone`` (Apache-2.0), which has the same number of weights in every size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.backbones.trunk import Stage, Trunk
from flexdetr.model.blocks import ConvBNAct
from flexdetr.model.c2f import C2f, with_yolov8_norms
from flexdetr.model.pooled import SPPF


class _Size(NamedTuple):
    channels: tuple[int, int, int, int, int]  # of the stem and of strides 4, 8, 16 and 32
    blocks: tuple[int, int, int, int]


CSPDARKNET_C2F: dict[str, _Size] = {
    "n": _Size((16, 32, 64, 128, 256), (1, 2, 2, 1)),
    "s": _Size((32, 64, 128, 256, 512), (1, 2, 2, 1)),
    "m": _Size((48, 96, 192, 384, 576), (2, 4, 4, 2)),
    "l": _Size((64, 128, 256, 512, 512), (3, 6, 6, 3)),
    "x": _Size((80, 160, 320, 640, 640), (3, 6, 6, 3)),
}


def cspdarknet_c2f(
    variant: str, *, strides: Sequence[int], inserts: Mapping[int, str], stage_lr: Sequence[float] = ()
) -> Trunk:
    """YOLOv8's backbone. Trained weights under a licence that permits their use here do not exist.

    ``variant`` is "n", "s", "m", "l" or "x"; ``strides`` are among 4, 8, 16, 32 (and coarser ones, which are
    made); for the others see ``Trunk``.

    Raises:
        ConfigError: if the variant is unknown or a level does not fit.
    """
    if variant not in CSPDARKNET_C2F:
        raise ConfigError(nearest(variant, CSPDARKNET_C2F, "size of cspdarknet_c2f"))
    (channels, *widths), depths = CSPDARKNET_C2F[variant]
    stem = ConvBNAct(3, channels, 3, stride=2, act="silu")
    stages = []
    for index, (width, blocks) in enumerate(zip(widths, depths, strict=True)):
        layers: list[nn.Module] = [
            ConvBNAct(channels, width, 3, stride=2, act="silu"),
            C2f(width, width, width // 2, blocks, shortcut=True),
        ]
        if index == len(widths) - 1:
            layers.append(SPPF(width))
        stages.append(Stage(nn.Sequential(*layers), width, 4 << index))
        channels = width
    trunk = Trunk(
        f"cspdarknet_c2f_{variant}",
        stem,
        stages,
        strides=strides,
        inserts=inserts,
        lr_mult=1.0,
        stage_lr=stage_lr,
    )
    return with_yolov8_norms(trunk)
