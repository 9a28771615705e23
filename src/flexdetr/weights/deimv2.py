"""DEIMv2's PyTorch checkpoints (arXiv 2509.20787): their names, and what their tensors say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from flexdetr.weights import dfine
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import Renamed, Rules, rules

_ENCODER: Final[Rules] = rules(
    *(
        row
        for theirs, ours in (("fpn_block", "top_down.0"), ("pan_block", "bottom_up.0"))
        for row in (
            (rf"{theirs}\.cv1\.", f"{ours}.split."),
            (rf"{theirs}\.cv2\.(\d)\.", rf"{ours}.steps.0.\1."),
            (rf"{theirs}\.cv3\.(\d)\.", rf"{ours}.steps.1.\1."),
            (rf"{theirs}\.cv4\.", f"{ours}.project."),
        )
    ),
    (r"down_sample1\.1\.", "made.0.1.conv."),
    (r"down_sample1\.2\.", "made.0.1.norm."),
    (r"down_sample2\.1\.", "downsample.0.1.conv."),
    (r"down_sample2\.2\.", "downsample.0.1.norm."),
    (r"bi_fusion\.cv\.", "intra.conv."),
)
_HEAD: Final[Rules] = rules(
    (r"decoder\.layers\.(\d+)\.(norm[123])\.scale$", r"layers.\1.\2.weight"),
    (r"decoder\.layers\.(\d+)\.gateway\.norm\.scale$", r"layers.\1.gate.norm.weight"),
    (r"decoder\.layers\.(\d+)\.swish_ffn\.w12\.", r"layers.\1.feed_forward.linear1."),
    (r"decoder\.layers\.(\d+)\.swish_ffn\.w3\.", r"layers.\1.feed_forward.linear2."),
)
_ANCHORS: Final = "decoder.anchors"


def is_deimv2(tensors: Mapping[str, Deferred]) -> bool:
    """Whether a state dict is that of a DEIMv2 detector, under its names."""
    return any(name.startswith("decoder.decoder.layers.0.swish_ffn.") for name in tensors)


def rename_deimv2(tensors: Mapping[str, Deferred]) -> Renamed:
    """A whole detector under our names; a box head that all layers share is kept once.

    ``tensors`` are ``backbone.*``, ``encoder.*`` and ``decoder.*`` as DEIMv2 names them.

    Raises:
        WeightsError: for a detector on DINOv3.
    """
    if not any(name.startswith("backbone.stem.") for name in tensors):
        raise WeightsError(
            "it is a DEIMv2 on DINOv3, whose weights are gated and under a licence of their own: FlexDETR supports "
            "DEIMv2 on HGNetV2 only (atto, femto, pico and n)"
        )
    copies = _copies(tensors)
    kept = {name: tensor for name, tensor in tensors.items() if name not in copies}
    renamed = dfine.rename_detector(kept, _ENCODER, _HEAD)
    renamed.left |= dict.fromkeys(copies, "the box head of all layers, which is kept once")
    return renamed


def known_values(tensors: Mapping[str, Deferred]) -> dict[str, Any]:
    """What the tensors say beside the shapes under our names, by section of the configuration.

    The square size that it was evaluated at follows from the number of anchors, which levels of half the size and of a
    quarter and so on make together.
    """
    head = dfine.head_values(tensors)
    known: dict[str, Any] = {"head": head}
    if _ANCHORS in tensors and "points" in head:
        levels = len(head["points"])
        # side ** 2 / 32 ** 2 cells of the coarsest level, and four times as many of each finer one.
        cells = tensors[_ANCHORS].shape[-2] / sum(4**level for level in range(levels))
        side = math.isqrt(int(cells))
        if side * side == cells and side:
            known["image_size"] = (32 * side, 32 * side)
    return known


def _copies(tensors: Mapping[str, Deferred]) -> set[str]:
    """Box heads of the layers behind the first, where all are equal to its."""
    first = {
        name.removeprefix("decoder.dec_bbox_head.0."): tensor
        for name, tensor in tensors.items()
        if name.startswith("decoder.dec_bbox_head.0.")
    }
    others = {
        name
        for name in tensors
        if name.startswith("decoder.dec_bbox_head.") and not name.startswith("decoder.dec_bbox_head.0.")
    }
    for name in others:
        model = first.get(name.split(".", 3)[3])
        if (
            model is None
            or model.shape != tensors[name].shape
            or not model.read().equal(tensors[name].read())
        ):
            return set()
    return others
