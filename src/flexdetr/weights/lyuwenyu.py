"""RT-DETR and RT-DETRv2 of lyuwenyu's PyTorch repository; other dialects are brought to its names first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flexdetr.weights.backbone_names import rename_backbone
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import Renamed, Rules, rename, rules

ENCODER: Final[Rules] = rules(
    (r"input_proj\.(\d+)\.(?:0|conv)\.", r"input_proj.\1.conv."),
    (r"input_proj\.(\d+)\.(?:1|norm)\.", r"input_proj.\1.norm."),
    (r"encoder\.0\.layers\.(\d+)\.self_attn\.in_proj_", r"intra.layers.\1.attention.packed."),
    (r"encoder\.0\.layers\.(\d+)\.self_attn\.out_proj\.", r"intra.layers.\1.attention.output."),
    (r"encoder\.0\.layers\.(\d+)\.(linear[12])\.", r"intra.layers.\1.feed_forward.\2."),
    (r"encoder\.0\.layers\.(\d+)\.(norm[12])\.", r"intra.layers.\1.\2."),
    (r"lateral_convs\.(\d+)\.", r"lateral.\1."),
    (r"downsample_convs\.(\d+)\.", r"downsample.\1."),
    (r"fpn_blocks\.(\d+)\.", r"top_down.\1."),
    (r"pan_blocks\.(\d+)\.", r"bottom_up.\1."),
    (r"pos_embed\d*$", None),
)

DECODER: Final[Rules] = rules(
    (r"anchors$|valid_mask$", None),
    (r"decoder\.layers\.\d+\.cross_attn\.num_points_scale$", None),
    (r"input_proj\.(\d+)\.(?:0|conv)\.", r"input_proj.\1.conv."),
    (r"input_proj\.(\d+)\.(?:1|norm)\.", r"input_proj.\1.norm."),
    (r"decoder\.layers\.(\d+)\.self_attn\.in_proj_", r"layers.\1.attention.packed."),
    (r"decoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"layers.\1.attention.output."),
    (r"decoder\.layers\.(\d+)\.cross_attn\.sampling_offsets\.", r"layers.\1.cross_attention.offsets."),
    (r"decoder\.layers\.(\d+)\.cross_attn\.attention_weights\.", r"layers.\1.cross_attention.weights."),
    (r"decoder\.layers\.(\d+)\.cross_attn\.value_proj\.", r"layers.\1.cross_attention.value."),
    (r"decoder\.layers\.(\d+)\.cross_attn\.output_proj\.", r"layers.\1.cross_attention.output."),
    (r"decoder\.layers\.(\d+)\.(linear[12])\.", r"layers.\1.feed_forward.\2."),
    (r"decoder\.layers\.(\d+)\.(norm[123])\.", r"layers.\1.\2."),
    (r"denoising_class_embed\.", "denoising.embedding."),
    (r"query_pos_head\.", "query_position."),
    (r"enc_output\.(?:0|proj)\.", "memory_proj."),
    (r"enc_output\.(?:1|norm)\.", "memory_norm."),
    (r"enc_score_head\.", "encoder_score."),
    (r"enc_bbox_head\.", "encoder_box."),
    (r"dec_score_head\.", "scores."),
    (r"dec_bbox_head\.", "boxes."),
)


def rename_detector(
    tensors: Mapping[str, Deferred], encoder: Rules = ENCODER, decoder: Rules = DECODER
) -> Renamed:
    """A whole detector under our names, each part by its own rules, whose names are without the part's.

    ``tensors`` are ``backbone.*``, ``encoder.*`` and ``decoder.*`` as lyuwenyu's PyTorch code names them, v1 or
    v2, unless other rules are given.
    """
    whole = Renamed()
    for part, table, ours in (
        ("backbone", None, "backbone"),
        ("encoder", encoder, "encoder"),
        ("decoder", decoder, "head"),
    ):
        inside = {
            name.removeprefix(f"{part}."): value
            for name, value in tensors.items()
            if name.startswith(f"{part}.")
        }
        renamed = rename_backbone(inside) if table is None else rename(inside, table)
        if renamed is None:
            raise WeightsError(
                f"its backbone is not one that FlexDETR has (its first tensor is backbone.{next(iter(inside), '')})"
            )
        whole.state.update({f"{ours}.{name}": tensor for name, tensor in renamed.state.items()})
        whole.left.update({f"{part}.{name}": reason for name, reason in renamed.left.items()})
        whole.unknown.extend(f"{part}.{name}" for name in renamed.unknown)
    whole.unknown.extend(
        name for name in tensors if name.split(".")[0] not in ("backbone", "encoder", "decoder")
    )
    return whole


def points_per_level(tensors: Mapping[str, Deferred]) -> tuple[int, ...] | None:
    """v2's sampling points of each level, read from the buffer that scales each point by one over their number."""
    scales = [
        tensor for name, tensor in tensors.items() if name.endswith("layers.0.cross_attn.num_points_scale")
    ]
    return points_of_scale(scales[0]) if scales else None


def points_of_scale(scale: Deferred) -> tuple[int, ...]:
    """``1/4 1/4 1/4 1/4 1/2 1/2`` as (4, 2)."""
    values = scale.read().flatten().tolist()
    points, place = [], 0
    while place < len(values):
        count = round(1 / values[place]) if values[place] > 0 else 0
        if count < 1 or place + count > len(values):
            raise WeightsError("the scale of its sampling points is damaged")
        points.append(count)
        place += count
    return tuple(points)
