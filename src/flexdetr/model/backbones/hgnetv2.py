"""PP-HGNetV2 (PaddleClas B0 to B6; RT-DETR's L, X, H are B4, B5, B6) and DEIMv2's cuts Atto, Femto, Pico."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.backbones.hgnet import HGBlock, HGStage
from flexdetr.model.backbones.trunk import Stage, Trunk
from flexdetr.model.blocks import ConvBNAct, LightConvBNAct

PoolPadding = Literal["zero", "paddle"]


class StemBlock(nn.Module):
    """PP-HGNetV2's stem: two 2x2 convolutions beside a 2x2 max pool, stride 4 in all.

    The 2x2 parts keep the size by one row and column of padding at the bottom right. Paddle leaves that
    padding out of the pool's maximum; the PyTorch projects pad with zeros. The two agree wherever the pool's
    input is not negative, which a learnable affine block before it can make it.

    Args:
        mid: channels of the branches.
        out: channels of the output.
        use_lab: end each convolution with a learnable affine block.
        pool_padding: "zero", or "paddle" to leave the padding out.
    """

    def __init__(self, mid: int, out: int, use_lab: bool, pool_padding: PoolPadding) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(3, mid, 3, stride=2, use_lab=use_lab)
        self.stem2a = ConvBNAct(mid, mid // 2, 2, use_lab=use_lab, padding=0)
        self.stem2b = ConvBNAct(mid // 2, mid, 2, use_lab=use_lab, padding=0)
        self.stem3 = ConvBNAct(2 * mid, mid, 3, stride=2, use_lab=use_lab)
        self.stem4 = ConvBNAct(mid, out, 1, use_lab=use_lab)
        self.pool_padding = pool_padding

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, out, H / 4, W / 4), rounded up."""
        x = self.stem1(images)
        padded = _pad(x)
        # A repeated edge never changes a maximum that already holds it: it leaves the padding out, without an
        # infinity.
        pooled = F.max_pool2d(
            padded if self.pool_padding == "zero" else F.pad(x, (0, 1, 0, 1), "replicate"), 2, 1
        )
        x = self.stem2b(_pad(self.stem2a(padded)))
        return self.stem4(self.stem3(torch.cat([pooled, x], 1)))


def _pad(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1, 0, 1))


class _Row(NamedTuple):
    inner: int
    out: int
    blocks: int
    light: bool = False
    kernel: int = 3


class _Variant(NamedTuple):
    stem: tuple[int, int]
    layers: int
    use_lab: bool
    lr_mult: float
    stages: tuple[_Row, ...]


def _rows(*stages: tuple[int, int, int]) -> tuple[_Row, ...]:
    """Two stages of dense layers, two of light 5x5 ones: the same in B0 to B6."""
    return tuple(_Row(*stage, light=i > 1, kernel=5 if i > 1 else 3) for i, stage in enumerate(stages))


def _cut(*last: _Row) -> _Variant:
    """B0's first two stages, and another third one."""
    return _Variant((16, 16), 3, True, 0.5, (_Row(16, 64, 1), _Row(32, 256, 1), *last))


# lr_mult: RT-DETR's for B4 to B6, D-FINE's for B0 and B2, those of the nearest size for B1 and B3.
HGNETV2: dict[str, _Variant] = {
    "b0": _Variant((16, 16), 3, True, 0.5, _rows((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1))),
    "b1": _Variant((24, 32), 3, True, 0.5, _rows((32, 64, 1), (48, 256, 1), (96, 512, 2), (192, 1024, 1))),
    "b2": _Variant((24, 32), 4, True, 0.1, _rows((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1))),
    "b3": _Variant((24, 32), 5, True, 0.1, _rows((32, 128, 1), (64, 512, 1), (128, 1024, 3), (256, 2048, 1))),
    "b4": _Variant(
        (32, 48), 6, False, 0.05, _rows((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1))
    ),
    "b5": _Variant(
        (32, 64), 6, False, 0.01, _rows((64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2))
    ),
    "b6": _Variant(
        (48, 96), 6, False, 0.01, _rows((96, 192, 2), (192, 512, 3), (384, 1024, 6), (768, 2048, 3))
    ),
    "atto": _cut(_Row(64, 256, 1, light=True)),
    "femto": _cut(_Row(64, 512, 1, light=True, kernel=5)),
    "pico": _cut(_Row(64, 512, 2, light=True, kernel=5)),
}


def hgnetv2(
    variant: str,
    *,
    strides: Sequence[int],
    inserts: Mapping[int, str],
    use_lab: bool | None = None,
    pool_padding: PoolPadding = "zero",
    lab_lr: float = 0.01,
    stage_lr: Sequence[float] = (),
) -> Trunk:
    """PP-HGNetV2.

    Args:
        variant: "b0" to "b6", "atto", "femto" or "pico".
        strides: of the wanted levels, among 4, 8, 16, 32 (the cuts: 4, 8, 16); coarser ones are made.
        inserts: see ``Trunk``.
        use_lab: learnable affine blocks; None takes PaddleClas' own (B0 to B3 and the cuts have them).
            PaddleDetection built S and M, which are B1 and B2, without.
        pool_padding: of the stem's max pool, "zero" as in the PyTorch projects and timm, "paddle" for
            PaddleClas' own B0 to B3 weights. Without affine blocks they are the same.
        lab_lr: see ``Trunk``; Paddle trains affine blocks at a hundredth.
        stage_lr: see ``Trunk``; Paddle's ``lr_mult_list``.

    Raises:
        ConfigError: if an option is unknown or a level does not fit.
    """
    if variant not in HGNETV2:
        raise ConfigError(nearest(variant, HGNETV2, "PP-HGNetV2 variant"))
    if pool_padding not in ("zero", "paddle"):
        raise ConfigError(nearest(str(pool_padding), ("zero", "paddle"), "pool_padding"))
    row = HGNETV2[variant]
    lab = row.use_lab if use_lab is None else use_lab
    stages, channels = [], row.stem[1]
    for index, stage in enumerate(row.stages):
        blocks = [
            _block(channels if i == 0 else stage.out, stage, row.layers, lab, i > 0)
            for i in range(stage.blocks)
        ]
        stages.append(Stage(HGStage(channels, index > 0, blocks), stage.out, 4 << index))
        channels = stage.out
    return Trunk(
        f"hgnetv2_{variant}",
        StemBlock(*row.stem, lab, pool_padding),
        stages,
        strides=strides,
        inserts=inserts,
        lr_mult=row.lr_mult,
        lab_lr=lab_lr,
        stage_lr=stage_lr,
    )


def _block(channels: int, row: _Row, layers: int, use_lab: bool, residual: bool) -> HGBlock:
    """Layers, then the squeeze and the excitation convolution."""
    layer = LightConvBNAct if row.light else ConvBNAct
    return HGBlock(
        (
            layer(channels if i == 0 else row.inner, row.inner, row.kernel, use_lab=use_lab)
            for i in range(layers)
        ),
        nn.Sequential(
            ConvBNAct(channels + layers * row.inner, row.out // 2, 1, use_lab=use_lab),
            ConvBNAct(row.out // 2, row.out, 1, use_lab=use_lab),
        ),
        residual,
    )
