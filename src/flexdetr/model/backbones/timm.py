"""Any timm model that extracts features, as a backbone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flexdetr.config import ConfigError, nearest
from flexdetr.model.backbones.base import NO_MEAN, NO_STD
from flexdetr.model.backbones.levels import LevelFit
from flexdetr.model.backbones.wrapped import (
    PROBE_SIZE,
    FeatureMap,
    Permuted,
    WrappedBackbone,
    place_insert,
    probe,
    probe_inserts,
)
from flexdetr.model.inserts import build_insert

# Where each stride ends, for families of which timm taps the first blocks of a stride and drops the rest.
_STRIDE_ENDS = {"ghostnet": {2: "blocks.0", 4: "blocks.2", 8: "blocks.4", 16: "blocks.6", 32: "blocks.8"}}
# What would read a file, or fetch one, while the model is made.
_LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
# Switches by which families accept other image sizes than they were built for.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})
_FIXED_SIZE = (
    "if it is built for one image size, give that: backbone.options={img_size: [640, 640]}, and train without "
    "data.multi_scale"
)


class TimmFeatures(nn.Module):
    """timm's feature extractor with its re-parameterisation."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> feature maps, finest first."""
        return self.net(images)

    def fuse(self) -> nn.Module:
        """A copy in which timm folded all that its model can fold (RepVGG, MobileOne, FastViT, RepViT ...)."""
        from timm.utils.model import reparameterize_model

        fused: nn.Module = reparameterize_model(self.net, inplace=False)
        return fused.requires_grad_(False).eval()


def timm_backbone(
    model: str,
    *,
    strides: Sequence[int],
    inserts: Mapping[int, str],
    taps: str = "last",
    **options: Any,  # noqa: ANN401 - keyword arguments of timm's model
) -> WrappedBackbone:
    """A timm model, random weights.

    Levels are timm's feature maps, in (B, C, H, W) also where the family works channels-last. A plain ViT
    becomes a pyramid (see ``LevelFit``); where its patches are no power of two, like 14, images are resized
    so that they count as the next one, 16. Layers that no level needs are left out.

    Args:
        model: timm's name of it, with or without a pretrained tag.
        strides: of the wanted levels.
        inserts: names of attention inserts by stride.
        taps: "last" takes the last block of each stride where timm itself takes the first (the GhostNets);
            "timm" does as timm does.
        **options: of the model, like ``img_size`` for those that work at one size only, or
        ``drop_path_rate``.

    Raises:
        ConfigError: if timm has no such model, it extracts no features, refuses an option or other image
            sizes, or its levels or the inserts do not fit.
    """
    _check_model(model)
    if taps not in ("last", "timm"):
        raise ConfigError(nearest(taps, ("last", "timm"), "taps"))
    name = f"timm/{model}"
    for option in _LOADING:
        if option in options:
            raise ConfigError(
                f"backbone.options of {name}: {option} is not taken; weights=backbone or backbone.weights=FILE load"
            )
    own_taps = taps == "last"
    # On the meta device nothing is computed: a first copy tells the shapes, and tries the inserts.
    with torch.device("meta"):
        net = _create(model, options, None, own_taps)
        stages, scale = _stages(name, net, options)
        plain = len({stage.stride for stage in stages}) == 1
        fit = LevelFit([s.channels for s in stages], [s.stride for s in stages], strides, name, plain)
        needed = sorted({index for index in fit.taken if index >= 0})
        deepest = stages[: needed[-1] + 1]
        channels_last = _channels_last(net)
        known: Sequence[int] = net.feature_info.out_indices  # type: ignore[union-attr, assignment]
        indices = [known[index] for index in needed]
        if inserts:
            trial = _trim(_create(model, options, indices, own_taps), deepest[-1].module)
            _place(name, trial, deepest, inserts, channels_last)
            try:
                probe_inserts(trial, _probe_size(options, scale))
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
    net = _trim(_create(model, options, indices, own_taps), deepest[-1].module)
    _place(name, net, deepest, inserts, channels_last)
    facts: Mapping[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    return WrappedBackbone(
        name,
        TimmFeatures(net),
        [stage._replace(module=stage.module and f"net.{stage.module}") for stage in deepest],
        needed,
        strides=strides,
        plain=plain,
        channels_last=channels_last,
        scale=scale,
        mean=tuple(facts.get("mean", NO_MEAN)),
        std=tuple(facts.get("std", NO_STD)),
    )


def _check_model(model: str) -> None:
    import timm

    if timm.is_model(model):
        return
    near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(f'timm/{name}' for name in near)}?" if near else "see timm.list_models()"
    )
    raise ConfigError(f"timm has no model {model!r}; {hint}")


def _create(
    model: str, options: Mapping[str, Any], indices: Sequence[int] | None, own_taps: bool
) -> nn.Module:
    """The feature extractor, made for any image size where the family has a switch for that."""
    ends = next((ends for prefix, ends in _STRIDE_ENDS.items() if model.startswith(prefix)), None)
    extra: dict[str, Any] = {} if indices is None else {"out_indices": tuple(indices)}
    for switch in (*_ANY_SIZE, {}):
        try:
            if ends is not None and own_taps:
                return _tapped(model, {**switch, **options}, ends, indices)
            return _timm_model(model, features_only=True, **{**switch, **options, **extra})
        except TypeError as error:
            if not any(repr(key) in str(error) for key in switch):
                raise ConfigError(
                    f"timm/{model} does not take backbone.options {dict(options)}: {error}"
                ) from error
        except RuntimeError as error:
            raise ConfigError(f"timm/{model} cannot be a backbone: {error}") from error
    raise AssertionError("unreachable: the last switch is empty")


def _trim(net: nn.Module, last: str | None) -> nn.Module:
    """Leaves out the blocks behind the last feature map, which some of timm's extractors keep and run."""
    holder, _, number = (last or "").rpartition(".")
    blocks = net.get_submodule(holder) if holder else net
    if type(blocks) is nn.Sequential and number.isdigit():
        net.set_submodule(holder, blocks[: int(number) + 1])
    return net


def _timm_model(model: str, **arguments: Any) -> nn.Module:  # noqa: ANN401
    import timm

    return timm.create_model(model, pretrained=False, **arguments)


def _tapped(
    model: str, options: Mapping[str, Any], ends: Mapping[int, str], indices: Sequence[int] | None
) -> nn.Module:
    """The model with feature maps of our choice; their channels are left for the probe to find."""
    from timm.models import FeatureListNet

    whole = _timm_model(model, **options)
    whole.feature_info = [  # type: ignore[assignment]
        {"num_chs": 1, "reduction": stride, "module": module} for stride, module in ends.items()
    ]
    chosen = tuple(range(len(ends)) if indices is None else indices)
    net = FeatureListNet(whole, out_indices=chosen, flatten_sequential=True)
    net.pretrained_cfg = whole.pretrained_cfg
    return net


def _stages(name: str, net: nn.Module, options: Mapping[str, Any]) -> tuple[list[FeatureMap], float]:
    """All feature maps, with the shapes that they really have, and the factor by which images must be resized."""
    facts: list[dict[str, Any]] = net.feature_info.get_dicts()  # type: ignore[union-attr, operator]
    reductions = [int(fact["reduction"]) for fact in facts]
    finest = min(reductions)
    scale = finest / (1 << (finest - 1).bit_length())
    strides = [round(reduction / scale) for reduction in reductions]
    size = _probe_size(options, scale)
    shapes = _try(name, net, size)
    axis = 3 if _channels_last(net) else 1
    sides = (1, 2) if axis == 3 else (2, 3)
    for stride, shape, reduction in zip(strides, shapes, reductions, strict=True):
        want = [-(-side // reduction) for side in size]
        if stride & (stride - 1) or [shape[i] for i in sides] != want:
            raise ConfigError(
                f"{name} cannot be a backbone: its map of stride {reduction} is {shape[sides[0]]}x{shape[sides[1]]} "
                f"for an image of {size[0]}x{size[1]}; strides must be powers of two and maps the image's size divided "
                "by them"
            )
    paths = [_path(net, str(fact["module"])) for fact in facts]
    return [
        FeatureMap(shape[axis], stride, path)
        for shape, stride, path in zip(shapes, strides, paths, strict=True)
    ], scale


def _try(name: str, net: nn.Module, size: tuple[int, int]) -> list[tuple[int, ...]]:
    try:
        return probe(net, size)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"{name} failed on an image of {size[0]}x{size[1]} ({reason}); {_FIXED_SIZE}"
        ) from error


def _probe_size(options: Mapping[str, Any], scale: float) -> tuple[int, int]:
    """An image size that the network must take, as it sees it."""
    fixed = options.get("img_size")
    if fixed is None:
        return round(PROBE_SIZE[0] * scale), round(PROBE_SIZE[1] * scale)
    return (fixed, fixed) if isinstance(fixed, int) else (fixed[0], fixed[1])


def _channels_last(net: nn.Module) -> bool:
    return str(getattr(getattr(net, "output_fmt", None), "value", "NCHW")) == "NHWC"


def _path(net: nn.Module, module: str) -> str | None:
    """Where a module of timm's original model is in the extractor, which renames or moves some."""
    paths = {path for path, _ in net.named_modules()}
    candidates = (module, module.replace(".", "_", 1), f"model.{module}", f"body.{module}")
    return next((path for path in candidates if path in paths), None)


def _place(
    name: str, net: nn.Module, stages: Sequence[FeatureMap], inserts: Mapping[int, str], channels_last: bool
) -> None:
    for stride, insert in inserts.items():
        there = [stage for stage in stages if stage.stride == stride]
        if not there or there[-1].module is None:
            has = ", ".join(str(stage.stride) for stage in stages if stage.module)
            raise ConfigError(
                f"attention.backbone.{stride}: {name} runs no stage of stride {stride}; it has {has}"
            )
        module = build_insert(insert, there[-1].channels)
        place_insert(net, there[-1].module, Permuted(module) if channels_last else module)
