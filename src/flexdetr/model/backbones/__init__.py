"""Backbones: a table of names, and everything else that one string (or module) can mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from flexdetr.config import BackboneConfig, ConfigError, nearest
from flexdetr.model.backbones.base import Backbone
from flexdetr.model.backbones.cspdarknet_c2f import cspdarknet_c2f
from flexdetr.model.backbones.custom import custom_backbone, named_backbone
from flexdetr.model.backbones.ghostnetv3 import ghostnetv3
from flexdetr.model.backbones.hgnet import hgnet
from flexdetr.model.backbones.hgnetv2 import hgnetv2
from flexdetr.model.backbones.resnet_vd import resnet_vd
from flexdetr.model.backbones.timm import timm_backbone
from flexdetr.model.backbones.trunk import Trunk
from flexdetr.model.backbones.wrapped import WrappedBackbone

__all__ = ["BACKBONES", "Backbone", "Trunk", "WrappedBackbone", "build_backbone"]

# Each is called with strides, inserts and the configuration's options, all by keyword.
BACKBONES: dict[str, Callable[..., Trunk | WrappedBackbone]] = {
    "hgnet_tiny": partial(hgnet, "tiny"),
    "hgnet_small": partial(hgnet, "small"),
    "hgnet_base": partial(hgnet, "base"),
    "hgnetv2_atto": partial(hgnetv2, "atto"),
    "hgnetv2_femto": partial(hgnetv2, "femto"),
    "hgnetv2_pico": partial(hgnetv2, "pico"),
    "hgnetv2_b0": partial(hgnetv2, "b0"),
    "hgnetv2_b1": partial(hgnetv2, "b1"),
    "hgnetv2_b2": partial(hgnetv2, "b2"),
    "hgnetv2_b3": partial(hgnetv2, "b3"),
    "hgnetv2_b4": partial(hgnetv2, "b4"),
    "hgnetv2_b5": partial(hgnetv2, "b5"),
    "hgnetv2_b6": partial(hgnetv2, "b6"),
    # RT-DETR's names; PaddleDetection builds S and M without affine blocks.
    "hgnetv2_s": partial(hgnetv2, "b1", use_lab=False),
    "hgnetv2_m": partial(hgnetv2, "b2", use_lab=False),
    "hgnetv2_l": partial(hgnetv2, "b4"),
    "hgnetv2_x": partial(hgnetv2, "b5"),
    "hgnetv2_h": partial(hgnetv2, "b6"),
    "ghostnetv3_050": partial(ghostnetv3, "050"),
    "ghostnetv3_100": partial(ghostnetv3, "100"),
    "ghostnetv3_130": partial(ghostnetv3, "130"),
    "ghostnetv3_160": partial(ghostnetv3, "160"),
    "resnet18_vd": partial(resnet_vd, "18"),
    "resnet34_vd": partial(resnet_vd, "34"),
    "resnet50_vd": partial(resnet_vd, "50"),
    "resnet101_vd": partial(resnet_vd, "101"),
    "cspdarknet_c2f_n": partial(cspdarknet_c2f, "n"),
    "cspdarknet_c2f_s": partial(cspdarknet_c2f, "s"),
    "cspdarknet_c2f_m": partial(cspdarknet_c2f, "m"),
    "cspdarknet_c2f_l": partial(cspdarknet_c2f, "l"),
    "cspdarknet_c2f_x": partial(cspdarknet_c2f, "x"),
    "ghostnet_050": partial(timm_backbone, "ghostnet_050"),
    "ghostnet_100": partial(timm_backbone, "ghostnet_100"),
    "ghostnet_130": partial(timm_backbone, "ghostnet_130"),
    "ghostnetv2_100": partial(timm_backbone, "ghostnetv2_100"),
    "ghostnetv2_130": partial(timm_backbone, "ghostnetv2_130"),
    "ghostnetv2_160": partial(timm_backbone, "ghostnetv2_160"),
    "mobilenetv1_100": partial(timm_backbone, "mobilenetv1_100"),
    "mobilenetv1_125": partial(timm_backbone, "mobilenetv1_125"),
    "efficientnet_lite0": partial(timm_backbone, "tf_efficientnet_lite0"),
    "efficientnet_lite1": partial(timm_backbone, "tf_efficientnet_lite1"),
    "efficientnet_lite2": partial(timm_backbone, "tf_efficientnet_lite2"),
}

NO_INSERTS: Mapping[int, str] = MappingProxyType({})


def build_backbone(
    config: BackboneConfig | nn.Module, strides: Sequence[int], inserts: Mapping[int, str] = NO_INSERTS
) -> Trunk | WrappedBackbone:
    """The backbone that a configuration names, with random weights; nothing is frozen yet.

    Args:
        config: names a row of ``BACKBONES``, ``timm/NAME``, or ``my_pkg.my_mod:factory``; or a module of the
            user's (see ``custom_backbone``).
        strides: of the levels that the encoder takes, ascending.
        inserts: names of attention inserts by the stride of the stage that they follow.

    Raises:
        ConfigError: if the name, an option, a level or an insert does not fit, with the nearest that does.
    """
    if isinstance(config, nn.Module):
        return custom_backbone(config, strides=strides, inserts=inserts)
    backbone = _factory(config)(strides=tuple(strides), inserts=inserts)
    if config.lr_mult is not None:
        backbone.lr_mult = config.lr_mult
    return backbone


def _factory(config: BackboneConfig) -> Callable[..., Trunk | WrappedBackbone]:
    """The part with its options bound."""
    name, options = config.name, config.options
    if name.startswith("timm/"):
        return partial(timm_backbone, name.removeprefix("timm/"), **options)
    if ":" in name:
        return partial(named_backbone, name, **options)
    if name not in BACKBONES:
        raise ConfigError(_unknown(name))
    row = BACKBONES[name]
    _check_options(name, row, options)
    return partial(row, **options)


def _unknown(name: str) -> str:
    import timm

    if timm.is_model(name):
        return f"unknown backbone {name!r}; timm has a model of this name: did you mean 'timm/{name}'?"
    return (
        nearest(name, BACKBONES, "backbone") + " Any timm model is timm/NAME, your own my_pkg.my_mod:factory."
    )


def _check_options(name: str, row: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(row).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name not in ("strides", "inserts")]
    known = [option for option in known if option not in ("variant", "depth")]
    for option in options:
        if option not in known:
            reason = nearest(option, known, "option") if known else f"unknown option {option!r}; it has none"
            raise ConfigError(f"backbone.options of {name}: {reason}")
