"""timm checkpoints as starts of timm backbones, whose feature extractors rename and drop some modules."""

from __future__ import annotations

from collections.abc import Mapping

from flexdetr.config import BackboneConfig
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import Renamed

_BODY = "body.net."
_LITE = {
    (2, 40, 320): "efficientnet_lite0",
    (3, 40, 320): "efficientnet_lite1",
    (3, 48, 352): "efficientnet_lite2",
}


def shipped_name(tensors: Mapping[str, Deferred]) -> str | None:
    """Which of the timm backbones in our table a state dict is, by its first and widest tensors."""
    stem = tensors.get("conv_stem.weight")
    if stem is None:
        return None
    width = stem.shape[0]
    if "blocks.0.0.ghost1.primary_conv.0.weight" in tensors:
        if "blocks.2.0.ghost1.short_conv.0.weight" in tensors:
            return {16: "ghostnetv2_100", 20: "ghostnetv2_130", 24: "ghostnetv2_160"}.get(width)
        return {8: "ghostnet_050", 16: "ghostnet_100", 20: "ghostnet_130"}.get(width)
    if (name := _lite_name(tensors)) is not None:
        return name
    first = tensors.get("blocks.0.0.conv_pw.weight")
    if (
        first is not None
        and "blocks.4.1.conv_dw.weight" in tensors
        and "blocks.5.0.conv_dw.weight" not in tensors
    ):
        return {(32, 64): "mobilenetv1_100", (40, 80): "mobilenetv1_125"}.get((width, first.shape[0]))
    return None


def _lite_name(tensors: Mapping[str, Deferred]) -> str | None:
    """Which EfficientNet-Lite it is, by the blocks of its second stage and the channels of two others."""
    widths = [tensors.get(f"blocks.{stage}.0.conv_pwl.weight") for stage in (2, 6)]
    if any(width is None for width in widths) or any(".se." in name for name in tensors):
        return None
    blocks = sum(f"blocks.1.{block}.conv_pwl.weight" in tensors for block in range(4))
    return _LITE.get((blocks, *(width.shape[0] for width in widths if width is not None)))  # type: ignore[arg-type]


def rename_timm(tensors: Mapping[str, Deferred], config: BackboneConfig) -> Renamed | None:
    """A timm checkpoint under the names of one of our timm backbones.

    All of the backbone's tensors must be found, with their shapes.

    Returns:
        Names without ``backbone.``; None if the checkpoint is not of this backbone.
    """
    from flexdetr.config import ConfigError
    from flexdetr.model.backbones import build_backbone
    from flexdetr.weights.skeleton import without_draws

    try:
        with without_draws():
            expected = build_backbone(config, (8, 16, 32)).state_dict()
    except ConfigError:
        return None
    done = Renamed()
    taken = set()
    for name, value in expected.items():
        if not name.startswith(_BODY):
            continue
        theirs = next((other for other in _spellings(name.removeprefix(_BODY)) if other in tensors), None)
        if theirs is None and name.endswith("num_batches_tracked"):
            continue
        if theirs is None or tensors[theirs].shape != tuple(value.shape):
            return None
        done.state[name] = tensors[theirs]
        taken.add(theirs)
    done.left = dict.fromkeys(tensors.keys() - taken, "the classifier, and layers behind the last level")
    return done if done.state else None


def _spellings(name: str) -> tuple[str, ...]:
    """A feature extractor joins the path of a nested stage: ``blocks.3.0`` becomes ``blocks_3.0``."""
    head, dot, rest = name.partition(".")
    stem, joint, number = head.rpartition("_")
    return (name, f"{stem}.{number}{dot}{rest}") if joint and number.isdigit() else (name,)
