"""Every named model as a value. RT-DETR, RT-DETRv2, D-FINE and DEIM have published architectures; flexdetr is ours.

So are the RT-DETRs on GhostNet, MobileNetV1 and PP-HGNet v1: the published encoder and decoder of the nearest size, on
another one. A preset's recipe is what differs between backbones: rate and freezing, both only with trained weights.
Lengths and rates of the schedule are derived from the data (see ``engine.recipe``): one recipe fits all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from flexdetr.classifiers import CLASSIFIERS
from flexdetr.config import (
    BackboneConfig,
    Config,
    ConfigError,
    DataConfig,
    EncoderConfig,
    LossConfig,
    TrainConfig,
    build,
    merge,
    nearest,
    parse_overrides,
    read_yaml,
)
from flexdetr.foreign_code import first_objection, named
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.model.heads.yolov8.options import YOLOv8Options
from flexdetr.recipes import published

_R18 = BackboneConfig(name="resnet18_vd", lr_mult=0.1)
_R34 = BackboneConfig(name="resnet34_vd", lr_mult=0.1)
_R50 = BackboneConfig(name="resnet50_vd", lr_mult=0.1, freeze_stem=True, freeze_norms=True)
_R101 = BackboneConfig(name="resnet101_vd", lr_mult=0.01, freeze_stem=True, freeze_norms=True)
_HALF = EncoderConfig(expansion=0.5)
_FULL = EncoderConfig()
_WIDE = EncoderConfig(width=384, ffn=2048)
_HUGE = EncoderConfig(width=512, ffn=2048, intra_layers=2)


def _hgnetv2(size: str, lr_mult: float) -> BackboneConfig:
    return BackboneConfig(name=f"hgnetv2_{size}", lr_mult=lr_mult, freeze_stem=True, freeze_norms=True)


def _light(backbone: str, lr_mult: float = 0.1, layers: int = 3) -> Config:
    """An RT-DETR with R18's encoder and decoder: among these nothing but the backbone differs.

    Nothing is frozen: light backbones have much to learn, and the sums of GhostNetV3's branches need their norms.
    """
    return Config(
        model=f"rtdetr_{backbone}",
        backbone=BackboneConfig(name=backbone, lr_mult=lr_mult),
        encoder=_HALF,
        head=RTDETROptions(layers=layers),
    )


def _yolov8(size: str, depth: float) -> Config:
    """YOLOv8 as released: its backbone holds the pooling, and levels keep the backbone's channels."""
    return Config(
        model=f"yolov8_{size}",
        backbone=BackboneConfig(name=f"cspdarknet_c2f_{size}", lr_mult=1.0),
        encoder=EncoderConfig(fusion="pan_c2f", intra="none", project=False, depth=depth),
        head=YOLOv8Options(),
    )


def _yolov8_hgnetv2(size: str, backbone: str, width: int, depth: float) -> Config:
    """YOLOv8's pyramid and head on PP-HGNetV2, whose wide levels are brought to one width."""
    return Config(
        model=f"yolov8_hgnetv2_{size}",
        backbone=BackboneConfig(name=backbone, lr_mult=0.5),
        encoder=EncoderConfig(width=width, fusion="pan_c2f", intra="sppf", depth=depth),
        head=YOLOv8Options(),
    )


def _ours(
    name: str,
    backbone: str,
    encoder: EncoderConfig,
    head: RTDETROptions,
    image_size: int = 640,
    lr_mult: float = 0.5,
) -> Config:
    return Config(
        model=name,
        image_size=(image_size, image_size),
        backbone=BackboneConfig(name=backbone, lr_mult=lr_mult),
        encoder=encoder,
        head=head,
    )


_DFINE_SIZES: Final[Mapping[str, tuple[str, EncoderConfig, DFINEOptions]]] = {
    "n": (
        "hgnetv2_b0",
        EncoderConfig(strides=(16, 32), width=128, ffn=512, fusion="gelan", expansion=0.34, depth=0.5),
        DFINEOptions(width=128, layers=3, ffn=512, points=6),
    ),
    "s": (
        "hgnetv2_b0",
        EncoderConfig(fusion="gelan", expansion=0.5, depth=0.34),
        DFINEOptions(layers=3, points=(3, 6, 3)),
    ),
    "m": (
        "hgnetv2_b2",
        EncoderConfig(fusion="gelan", depth=0.67),
        DFINEOptions(layers=4, points=(3, 6, 3)),
    ),
    "l": ("hgnetv2_l", EncoderConfig(fusion="gelan"), DFINEOptions(points=(3, 6, 3))),
    "x": (
        "hgnetv2_x",
        EncoderConfig(width=384, ffn=2048, fusion="gelan"),
        DFINEOptions(points=(3, 6, 3), reg_scale=8.0),
    ),
}


def _dfine(size: str, lr_mult: float, *, frozen: bool = False) -> Config:
    backbone, encoder, head = _DFINE_SIZES[size]
    return Config(
        model=f"dfine_{size}",
        backbone=BackboneConfig(name=backbone, lr_mult=lr_mult, freeze_stem=frozen, freeze_norms=frozen),
        encoder=encoder,
        head=head,
    )


def _deim(size: str, lr_mult: float) -> Config:
    """D-FINE's graph with SiLU, nothing frozen, and the matchability-aware loss (arXiv 2412.04234)."""
    backbone, encoder, head = _DFINE_SIZES[size]
    return Config(
        model=f"deim_{size}",
        backbone=BackboneConfig(name=backbone, lr_mult=lr_mult),
        encoder=encoder,
        head=head.model_copy(update={"activation": "silu"}),
        loss=LossConfig(classification="mal"),
    )


def _deimv2(
    size: str, backbone: str, encoder: EncoderConfig, head: DFINEOptions, image_size: int = 640
) -> Config:
    """DEIMv2 on HGNetV2 (arXiv 2509.20787)."""
    return Config(
        model=f"deimv2_{size}",
        image_size=(image_size, image_size),
        backbone=BackboneConfig(name=backbone, lr_mult=0.5),
        encoder=encoder,
        head=head,
        loss=LossConfig(classification="mal"),
    )


def _deimv2_smallest(size: str, image_size: int, width: int, ffn: int, queries: int) -> Config:
    """On a cut of B0 that ends at stride 16, with one box head and no gates."""
    encoder = EncoderConfig(
        strides=(16, 32), width=width, intra="gap", fusion="lite", expansion=0.34, depth=0.5
    )
    head = _DEIMV2.model_copy(
        update={
            "width": width,
            "ffn": ffn,
            "queries": queries,
            "points": (4, 2),
            "gate": False,
            "shared_boxes": True,
            # Their distributions are taught by the boxes alone.
            "fgl_weight": 0.0,
            "ddf_weight": 0.0,
            "unite": False,
        }
    )
    return _deimv2(size, f"hgnetv2_{size}", encoder, head, image_size)


# What all of DEIMv2's heads have in common.
_DEIMV2 = DFINEOptions(
    layers=3,
    activation="silu",
    norm="rms",
    feed_forward="swiglu",
    project_tokens=False,
    position_layers=3,
    position_once=True,
)


def _deim_rtdetrv2(size: str, backbone: str, lr_mult: float, encoder: EncoderConfig, layers: int) -> Config:
    """RT-DETRv2 as DEIM trains it: SiLU, and query positions from three layers of one width."""
    return Config(
        model=f"deim_rtdetrv2_{size}",
        backbone=BackboneConfig(name=backbone, lr_mult=lr_mult),
        encoder=encoder,
        head=RTDETROptions(layers=layers, activation="silu", position_layers=3),
        loss=LossConfig(classification="mal"),
    )


_ROWS: Final[tuple[Config, ...]] = (
    Config(model="rtdetr_r18", backbone=_R18, encoder=_HALF, head=RTDETROptions(layers=3)),
    Config(model="rtdetr_r34", backbone=_R34, encoder=_HALF, head=RTDETROptions(layers=4)),
    Config(model="rtdetr_r50m", backbone=_R50, encoder=_HALF, head=RTDETROptions(eval_layers=3)),
    Config(model="rtdetr_r50", backbone=_R50, encoder=_FULL),
    Config(model="rtdetr_r101", backbone=_R101, encoder=_WIDE),
    Config(model="rtdetr_hgnetv2_l", backbone=_hgnetv2("l", 0.05), encoder=_FULL),
    Config(model="rtdetr_hgnetv2_x", backbone=_hgnetv2("x", 0.01), encoder=_WIDE),
    Config(model="rtdetr_hgnetv2_h", backbone=_hgnetv2("h", 0.01), encoder=_HUGE),
    Config(model="rtdetrv2_s", backbone=_R18, encoder=_HALF, head=RTDETROptions(layers=3)),
    Config(model="rtdetrv2_m", backbone=_R34, encoder=_HALF, head=RTDETROptions(layers=4)),
    Config(model="rtdetrv2_ml", backbone=_R50, encoder=_HALF, head=RTDETROptions(eval_layers=3)),
    Config(model="rtdetrv2_l", backbone=_R50, encoder=_FULL),
    Config(model="rtdetrv2_x", backbone=_R101, encoder=_WIDE),
    _dfine("n", 0.5),
    _dfine("s", 0.5),
    _dfine("m", 0.1),
    _dfine("l", 0.05, frozen=True),
    _dfine("x", 0.01, frozen=True),
    _deim("n", 0.5),
    _deim("s", 0.5),
    _deim("m", 0.1),
    _deim("l", 0.05),
    _deim("x", 0.01),
    _deimv2_smallest("atto", 320, 64, 160, 100),
    _deimv2_smallest("femto", 416, 96, 256, 150),
    _deimv2_smallest("pico", 640, 112, 320, 200),
    _deimv2(
        "n",
        "hgnetv2_b0",
        EncoderConfig(strides=(16, 32), width=128, ffn=512, fusion="gelan_sum", expansion=0.34, depth=0.5),
        _DEIMV2.model_copy(update={"width": 128, "ffn": 512, "points": 6}),
    ),
    _deim_rtdetrv2("s", "resnet18_vd", 1.0, _HALF, 3),
    _deim_rtdetrv2("m", "resnet34_vd", 0.5, _HALF, 4),
    _deim_rtdetrv2("l", "resnet50_vd", 0.1, _FULL, 6),
    _light("ghostnetv3_050", lr_mult=0.5),
    _light("ghostnetv3_100", lr_mult=0.5),
    _light("ghostnetv3_130", lr_mult=0.5),
    _light("ghostnetv3_160", lr_mult=0.5),
    _light("ghostnet_100", lr_mult=0.5),
    _light("mobilenetv1_100", lr_mult=0.5),
    _light("hgnet_tiny"),
    _light("hgnet_small", layers=4),
    # Between RT-DETR's X and H in weights, heavier than both in arithmetic: with X's parts, trained like it.
    Config(
        model="rtdetr_hgnet_base",
        backbone=BackboneConfig(name="hgnet_base", lr_mult=0.01, freeze_stem=True, freeze_norms=True),
        encoder=_WIDE,
    ),
    # On DEIMv2's cuts of HGNetV2, at its image sizes; the cuts end at stride 16, and the level of 32 is made.
    _ours(
        "flexdetr_atto",
        "hgnetv2_atto",
        EncoderConfig(strides=(16, 32), width=64, ffn=128, expansion=0.34, depth=0.34),
        RTDETROptions(width=64, layers=3, ffn=128, queries=100, denoising=50),
        image_size=320,
    ),
    _ours(
        "flexdetr_femto",
        "hgnetv2_femto",
        EncoderConfig(strides=(16, 32), width=96, ffn=192, expansion=0.34, depth=0.34),
        RTDETROptions(width=96, layers=3, ffn=192, queries=100, denoising=50),
        image_size=416,
    ),
    _ours(
        "flexdetr_pico",
        "hgnetv2_b0",
        EncoderConfig(strides=(16, 32), width=128, ffn=256, expansion=0.34, depth=0.34),
        RTDETROptions(width=128, layers=3, ffn=256, queries=100, denoising=50),
    ),
    _ours(
        "flexdetr_nano",
        "hgnetv2_b0",
        EncoderConfig(strides=(16, 32), width=128, ffn=512, expansion=0.5, depth=0.67),
        RTDETROptions(width=128, layers=3, ffn=512, queries=150, denoising=50),
    ),
    _ours(
        "flexdetr_small",
        "hgnetv2_b0",
        EncoderConfig(width=192, ffn=768, expansion=0.5, depth=0.67),
        RTDETROptions(width=192, layers=3, ffn=768),
    ),
    # On backbones whose ImageNet weights come in a package; without squeeze-excitation and with ReLU6, for int8. A rate
    # of a quarter: on bccd AP was 0.153 after three epochs, and 0.126 with a half.
    _ours(
        "flexdetr_lite0",
        "efficientnet_lite0",
        EncoderConfig(strides=(16, 32), width=128, ffn=512, expansion=0.5, depth=0.67),
        RTDETROptions(width=128, layers=3, ffn=512, queries=150, denoising=50),
        lr_mult=0.25,
    ),
    _ours(
        "flexdetr_lite1",
        "efficientnet_lite1",
        EncoderConfig(width=128, ffn=512, expansion=0.5, depth=0.34),
        RTDETROptions(width=128, layers=3, ffn=512, queries=200, denoising=50),
        lr_mult=0.25,
    ),
    _ours(
        "flexdetr_lite2",
        "efficientnet_lite2",
        EncoderConfig(width=192, ffn=768, expansion=0.5, depth=0.67),
        RTDETROptions(width=192, layers=3, ffn=768),
        lr_mult=0.25,
    ),
    # Dense, with suppression after the network: what the end-to-end detectors are compared with.
    _yolov8("n", 0.34),
    _yolov8("s", 0.34),
    _yolov8("m", 0.67),
    _yolov8_hgnetv2("b0", "hgnetv2_b0", 64, 0.34),
    _yolov8_hgnetv2("l", "hgnetv2_l", 256, 1.0),
)

# Detectors, and with the classifiers all models.
PRESETS: Final[Mapping[str, Config]] = MappingProxyType({row.model: row for row in _ROWS})
MODELS: Final[Mapping[str, Config]] = MappingProxyType({**PRESETS, **CLASSIFIERS})


def preset(name: str) -> Config:
    """The configuration of a named model.

    Raises:
        ConfigError: naming the nearest models if there is none of this name.
    """
    if name not in MODELS:
        raise ConfigError(nearest(name, MODELS, "model"))
    return MODELS[name]


def resolve(
    model: str | None = None,
    config_file: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    calls_code: bool = True,
    **changes: Any,  # noqa: ANN401 - sections and keys of Config, checked when it is built
) -> Config:
    """A preset, changed by a YAML file, changed by keyword values, changed by ``key.sub=value`` texts.

    Args:
        model: the preset; None takes the file's ``model``.
        config_file: YAML with any of the configuration's keys.
        overrides: texts like ``train.lr=1e-4``; these win.
        calls_code: whether the model may be built; code that only the file names is refused then.
        **changes: nested values by key, like ``image_size=320`` or ``train={"epochs": 5}``.

    Raises:
        ConfigError: if a name, key or value is wrong, no model is named, or the file names code to be called.
    """
    written = read_yaml(config_file) if config_file is not None else {}
    typed = parse_overrides(overrides)
    name = typed.get("model", model if model is not None else written.get("model"))
    if name is None:
        raise ConfigError(f"no model was named; choose one of {', '.join(PRESETS)}")
    values: dict[str, Any] = preset(str(name)).model_dump()
    recipe = next((layer["recipe"] for layer in (typed, changes, written) if "recipe" in layer), "auto")
    # Below what was written and typed, which may still change it.
    values = merge(values, published(str(recipe), str(name)))
    for change in (written, changes, typed):
        values = merge(values, change)
    values["model"] = str(name)
    config = build(values)
    if config_file is not None and calls_code:
        known = [*named(changes).values(), *named(typed).values()]
        if (reason := first_objection(config.model_dump(), config_file, known)) is not None:
            raise ConfigError(reason)
    return config


def for_orientation(config: Config) -> Config:
    """A classifier's configuration for pages in their four turns: the same network, and nothing mirrored or blended.

    A backbone trained on photographs learns at the full rate unless the configuration says otherwise: lines of
    letters are new to it.

    Raises:
        ConfigError: if the model is no classifier.
    """
    if config.task not in ("classify", "orientation"):
        raise ConfigError(
            f"orientation is recognised by a classifier, and {config.model} is not one; take --model pphgnet_tiny_cls, "
            "hgnetv2_b0_cls or efficientnet_lite0_cls"
        )
    values = config.model_dump()
    values["head"]["name"] = "orientation"
    if config.backbone.lr_mult is None:
        values["backbone"]["lr_mult"] = 1.0
    # What was asked for is refused later, with the reason.
    values["data"] |= {
        key: 0.0
        for key in ("flip", "mosaic", "mixup")
        if values["data"][key] in (None, DataConfig.model_fields[key].default)
    }
    return build(values)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A detector's configuration for a further training.

    Args:
        config: the detector's.
        changes: keys of the ``train`` section, like ``epochs``, or other sections and keys, like ``data``.

    Raises:
        ConfigError: if a name, key or value is wrong, or the changes are those of another detector.
    """
    if changes.get("model", config.model) != config.model:
        raise ConfigError(
            f"this detector is a {config.model}; for another preset make another one: "
            f"Detector({changes['model']!r}, ...)"
        )
    values: dict[str, Any] = config.model_dump()
    values = merge(values, published(str(changes.get("recipe", "auto")), config.model))
    schedule = {key: value for key, value in changes.items() if key in TrainConfig.model_fields}
    sections = {key: value for key, value in changes.items() if key not in schedule}
    return build(merge(merge(values, {"train": schedule}), sections))
