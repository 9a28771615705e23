"""Every named classifier as a Python value: a backbone of our table and its published classifier's layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from flexdetr.config import BackboneConfig, Config, DataConfig, EncoderConfig, LossConfig, TrainConfig
from flexdetr.model.heads.classifier.options import ClassifierOptions

# Nothing between the backbone's coarsest level and the head: that fusion keeps levels as they are where there is one.
_STRAIGHT: Final = EncoderConfig(strides=(32,), fusion="pan_c2f", intra="none", project=False)
_CUT: Final = _STRAIGHT.model_copy(update={"strides": (16,)})
# One size, no mosaic; the recipe of detectors would derive these.
_DATA: Final = DataConfig(mosaic=0.0, mixup=0.0, multi_scale=False, iou_crop=1.0, zoom_out=0.0)
_TRAIN: Final = TrainConfig(batch_size=32, clip=5.0, augment_from=0.0, flat=0.0, weight_decay=0.02)


def classifier(
    name: str, backbone: BackboneConfig, head: ClassifierOptions, encoder: EncoderConfig = _STRAIGHT
) -> Config:
    """A classifier on a backbone."""
    return Config(
        model=name,
        image_size=(224, 224),
        backbone=backbone,
        encoder=encoder,
        head=head,
        loss=LossConfig(encoder_copies=1),
        data=_DATA,
        train=_TRAIN,
    )


def head_of(backbone: str, options: Mapping[str, Any] = MappingProxyType({})) -> ClassifierOptions:
    """The layers that the published classifier of a backbone has behind it.

    Args:
        backbone: a name of the table of backbones; of others a linear layer alone.
        options: of the backbone.
    """
    if backbone.startswith("hgnetv2_"):
        plain = backbone in ("hgnetv2_b4", "hgnetv2_b5", "hgnetv2_b6", "hgnetv2_l", "hgnetv2_x", "hgnetv2_h")
        lab = options.get("use_lab")
        default = not plain and backbone not in ("hgnetv2_s", "hgnetv2_m")
        return ClassifierOptions(hidden=2048, hidden_lab=default if lab is None else bool(lab))
    if backbone.startswith("hgnet_"):
        base = backbone == "hgnet_base"
        return ClassifierOptions(hidden=2048, dropout=0.2 if base else 0.0, downscale=base)
    if backbone.startswith("ghostnet"):
        width = int(backbone.rpartition("_")[2]) / 100
        return ClassifierOptions(features=_FEATURES[width], hidden=1280, hidden_bias=True, dropout=0.2)
    if backbone.startswith("efficientnet_lite"):
        return ClassifierOptions(features=1280, activation="relu6", dropout=0.2)
    return ClassifierOptions()


# 960 times the width, as a multiple of 4.
_FEATURES: Final[Mapping[float, int]] = {0.5: 480, 1.0: 960, 1.3: 1248, 1.6: 1536}


def _row(name: str, backbone: str, encoder: EncoderConfig = _STRAIGHT) -> Config:
    return classifier(f"{name}_cls", BackboneConfig(name=backbone), head_of(backbone), encoder)


_ROWS: Final[tuple[Config, ...]] = (
    *(_row(f"pphgnet_{size}", f"hgnet_{size}") for size in ("tiny", "small", "base")),
    *(_row(f"hgnetv2_b{size}", f"hgnetv2_b{size}") for size in range(7)),
    *(_row(f"hgnetv2_{size}", f"hgnetv2_{size}", _CUT) for size in ("atto", "femto", "pico")),
    *(_row(f"ghostnetv3_{width}", f"ghostnetv3_{width}") for width in ("050", "100", "130", "160")),
    *(_row(f"ghostnetv2_{width}", f"ghostnetv2_{width}") for width in ("100", "130", "160")),
    *(_row(f"ghostnet_{width}", f"ghostnet_{width}") for width in ("050", "100", "130")),
    *(_row(f"efficientnet_lite{size}", f"efficientnet_lite{size}") for size in range(3)),
    _row("mobilenetv1", "mobilenetv1_100"),
    _row("mobilenetv1_125", "mobilenetv1_125"),
    *(_row(f"resnet{depth}_vd", f"resnet{depth}_vd") for depth in (18, 34, 50, 101)),
    *(_row(f"cspdarknet_c2f_{size}", f"cspdarknet_c2f_{size}") for size in "nsmlx"),
)

CLASSIFIERS: Final[Mapping[str, Config]] = MappingProxyType({row.model: row for row in _ROWS})

# RT-DETR's names of three of the backbones.
_OTHER_NAMES: Final = {"hgnetv2_l": "hgnetv2_b4", "hgnetv2_x": "hgnetv2_b5", "hgnetv2_h": "hgnetv2_b6"}


def classifier_on(backbone: BackboneConfig, layers: Mapping[str, Any]) -> Config:
    """The classifier that a checkpoint with a backbone and some layers behind it is.

    Args:
        backbone: as it was read off the checkpoint.
        layers: options of the head that the checkpoint shows; the others are the published ones.

    Returns:
        The nearest preset, changed where it has to be.
    """
    name = _OTHER_NAMES.get(backbone.name, backbone.name)
    known = next((row for row in _ROWS if row.backbone.name == name), None)
    head = head_of(backbone.name, backbone.options).model_copy(update=dict(layers))
    encoder = _STRAIGHT if known is None else known.encoder
    return classifier("custom" if known is None else known.model, backbone, head, encoder)
