"""A user's own ``nn.Module`` as a backbone, passed as an object or named ``my_pkg.my_mod:factory``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from flexdetr.config import ConfigError
from flexdetr.foreign_code import imported
from flexdetr.model.backbones.base import NO_MEAN, NO_STD, Colour
from flexdetr.model.backbones.wrapped import (
    PROBE_SIZE,
    FeatureMap,
    WrappedBackbone,
    place_insert,
    probe,
    probe_inserts,
)
from flexdetr.model.inserts import build_insert


def custom_backbone(
    body: nn.Module, *, strides: Sequence[int], inserts: Mapping[int, str]
) -> WrappedBackbone:
    """Any module that maps (B, 3, H, W) images to a sequence (or mapping) of (B, C, H', W') maps, finest first.

    Channels and strides are found by running it once on a blank image. It may say more about itself by
    attributes: ``channels`` and ``strides`` (then they are checked), ``mean``, ``std``, ``lr_mult``,
    ``lr_multipliers()``, ``fuse()``, and ``stage_modules``, the path of the module that ends each stage by
    its stride, which attention inserts and freezing need: ``{4: "layer1", 8: "layer2"}``.

    ``strides`` are those of the wanted levels; ``inserts`` are names of attention inserts by stride.

    Raises:
        ConfigError: if what it returns or says about itself does not fit.
    """
    name = type(body).__name__
    paths: Mapping[int, str] = getattr(body, "stage_modules", {})
    maps = _maps(name, body)
    returned = {each.stride for each in maps}
    # Stages that are not returned can still be frozen; their channels are not needed for that.
    hidden = [FeatureMap(0, stride, path) for stride, path in paths.items() if stride not in returned]
    known = [each._replace(module=paths.get(each.stride)) for each in maps]
    stages = sorted([*hidden, *known], key=lambda each: each.stride)
    for stride, insert in inserts.items():
        _place(name, body, known, stride, insert)
    if inserts:
        probe_inserts(body, PROBE_SIZE)
    return WrappedBackbone(
        name,
        body,
        stages,
        [index for index, each in enumerate(stages) if each.channels],
        strides=strides,
        plain=len(returned) == 1,
        mean=_colour(body, "mean", NO_MEAN),
        std=_colour(body, "std", NO_STD),
        lr_mult=float(getattr(body, "lr_mult", 1.0)),
    )


def named_backbone(
    reference: str,
    *,
    strides: Sequence[int],
    inserts: Mapping[int, str],
    **options: Any,  # noqa: ANN401 - keyword arguments of the user's factory
) -> WrappedBackbone:
    """The backbone that ``my_pkg.my_mod:factory`` makes.

    Args:
        reference: an importable module, a colon, and a function (or class) in it that returns an
            ``nn.Module``.
        strides: of the wanted levels.
        inserts: names of attention inserts by stride.
        **options: keyword arguments of the factory.

    Raises:
        ConfigError: if it cannot be imported, or what it makes does not fit.
    """
    factory = imported(reference, f"backbone {reference!r}")
    try:
        body = factory(**options)
    except TypeError as error:
        raise ConfigError(
            f"backbone {reference!r} does not take backbone.options {options}: {error}"
        ) from error
    if not isinstance(body, nn.Module):
        raise ConfigError(
            f"backbone {reference!r} must return an nn.Module; it returned {type(body).__name__}"
        )
    return custom_backbone(body, strides=strides, inserts=inserts)


def _maps(name: str, body: nn.Module) -> list[FeatureMap]:
    shapes = probe(body, PROBE_SIZE)
    maps = [FeatureMap(shape[1], _stride(name, shape)) for shape in shapes]
    for attribute in ("channels", "strides"):
        said = getattr(body, attribute, None)
        found = tuple(getattr(each, attribute[:-1] if attribute == "strides" else attribute) for each in maps)
        if said is not None and tuple(said) != found:
            raise ConfigError(
                f"backbone {name} says {attribute} {tuple(said)}, but its feature maps have {found}"
            )
    return maps


def _stride(name: str, shape: tuple[int, ...]) -> int:
    stride = round(PROBE_SIZE[0] / shape[2])
    if stride & (stride - 1) or tuple(-(-side // stride) for side in PROBE_SIZE) != shape[2:]:
        raise ConfigError(
            f"backbone {name} makes a map of {shape[2]}x{shape[3]} from an image of {PROBE_SIZE[0]}x{PROBE_SIZE[1]}; "
            "maps must have the image's size divided by a power of two, as (B, C, H, W)"
        )
    return stride


def _colour(body: nn.Module, attribute: str, default: Colour) -> Colour:
    value = getattr(body, attribute, default)
    try:
        red, green, blue = (float(part) for part in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a backbone's {attribute} must be three numbers; got {value!r}") from error
    return red, green, blue


def _place(name: str, body: nn.Module, maps: Sequence[FeatureMap], stride: int, insert: str) -> None:
    there = [each for each in maps if each.stride == stride]
    if not there or there[-1].module is None:
        raise ConfigError(
            f"attention.backbone.{stride}: {name} does not say which module ends its stage of stride {stride}; give it "
            f"an attribute stage_modules, like {{{stride}: 'layer2'}}, for a stage that it returns"
        )
    place_insert(body, there[-1].module, build_insert(insert, there[-1].channels))
