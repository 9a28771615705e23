"""What transformers' d_fine has that its rt_detr has not: names, read and written, and entries of ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from flexdetr.config import Config
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.options import points_of_levels
from flexdetr.weights.container import WeightsError
from flexdetr.weights.renaming import Rules, rules

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPE: Final = "d_fine"
# Which part of a fusion block each of theirs is.
_BLOCK: Final = {
    "conv1": "split",
    "csp_rep1": "steps.0.0",
    "conv2": "steps.0.1",
    "csp_rep2": "steps.1.0",
    "conv3": "steps.1.1",
    "conv4": "project",
}
_PATHS: Final = {"fpn_blocks": "top_down", "pan_blocks": "bottom_up"}
# To be tried before those of rt_detr; names without "model.".
READ: Final[Rules] = rules(
    *(
        (rf"encoder\.{theirs}\.(\d+)\.{part}\.", rf"encoder.{ours}.\1.{place}.")
        for theirs, ours in _PATHS.items()
        for part, place in _BLOCK.items()
    ),
    (r"encoder\.downsample_convs\.(\d+)\.conv1\.", r"encoder.downsample.\1.0."),
    (r"encoder\.downsample_convs\.(\d+)\.conv2\.", r"encoder.downsample.\1.1."),
    (r"decoder\.(?:up|reg_scale)$", None),
    (r"decoder\.layers\.(\d+)\.gateway\.", r"head.layers.\1.gate."),
    (r"decoder\.pre_bbox_head\.", "head.pre_box."),
    (r"decoder\.lqe_layers\.(\d+)\.reg_conf\.", r"head.scores.\1.quality.mlp."),
    (r"decoder\.class_embed\.(\d+)\.", r"head.scores.\1.linear."),
)
# The same the other way round; names as files have them.
WRITE: Final[Rules] = rules(
    *(
        (rf"encoder\.{ours}\.(\d+)\.{place}\.", rf"model.encoder.{theirs}.\1.{part}.")
        for theirs, ours in _PATHS.items()
        for part, place in _BLOCK.items()
    ),
    (r"encoder\.downsample\.(\d+)\.0\.", r"model.encoder.downsample_convs.\1.conv1."),
    (r"encoder\.downsample\.(\d+)\.1\.", r"model.encoder.downsample_convs.\1.conv2."),
    (r"head\.layers\.(\d+)\.gate\.", r"model.decoder.layers.\1.gateway."),
    (r"head\.pre_box\.", "model.decoder.pre_bbox_head."),
    (r"head\.scores\.(\d+)\.quality\.mlp\.", r"model.decoder.lqe_layers.\1.reg_conf."),
    (r"head\.scores\.(\d+)\.linear\.", r"model.decoder.class_embed.\1."),
)
# What our head does, and what a configuration must therefore not say otherwise.
FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "layer_scale": (1, 1.0),
    "top_prob_values": (4,),
    "lqe_hidden_dim": (64,),
    "lqe_layers": (2,),
}

# DEIMv2's options of the head, as D-FINE has them.
_PLAIN: Final[Mapping[str, Any]] = {
    key: DFINEOptions.model_fields[key].default
    for key in (
        "norm",
        "feed_forward",
        "gate",
        "project_tokens",
        "position_layers",
        "position_once",
        "shared_boxes",
    )
}


def known_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the head that shapes do not show, from ``config.json``.

    Raises:
        WeightsError: if a value is none that the head can have.
    """
    known: dict[str, Any] = {"activation": "relu"}  # of all published ones, and of most layers in any
    for key in ("up", "reg_scale"):
        value = config.get(key, getattr(DFINEOptions(), key))
        if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
            raise WeightsError(f"its config.json sets {key}={value!r}, which is not a number other than 0")
        known[key] = abs(float(value))
    index = config.get("eval_idx", -1)
    if not isinstance(index, int) or index < -1:
        raise WeightsError(f"its config.json sets eval_idx={index!r}; FlexDETR reads -1, or a layer's number")
    known["eval_layers"] = index + 1 if index >= 0 else None
    return known


def refusals(config: Config, head: DFINEOptions) -> dict[str, bool]:
    """What of a detector transformers' d_fine does not have: what it is -> whether the detector has it."""
    encoder = config.encoder
    return {
        f"encoder.fusion={encoder.fusion}": encoder.fusion != "gelan",
        f"encoder.strides={list(encoder.strides)}": encoder.strides[0] < 4 or encoder.strides[-1] > 32,
        f"head.activation={head.activation} (it computes with relu)": head.activation != "relu",
        **{f"head.{key}={getattr(head, key)}": getattr(head, key) != value for key, value in _PLAIN.items()},
    }


def describe(config: Config, head: DFINEOptions) -> dict[str, Any]:
    """Entries of ``config.json`` that differ from those of rt_detr, or that it has not."""
    return {
        "architectures": ["DFineForObjectDetection"],
        "model_type": MODEL_TYPE,
        "decoder_n_points": list(points_of_levels(head.points, config.encoder.strides)),
        "decoder_offset_scale": 0.5,
        "decoder_method": "discrete" if head.sampling == "discrete" else "default",
        "depth_mult": config.encoder.depth,
        "max_num_bins": head.reg_max,
        "reg_scale": head.reg_scale,
        "up": head.up,
        "eval_idx": -1,
        "layer_scale": 1.0,
        "top_prob_values": 4,
        "lqe_hidden_dim": 64,
        "lqe_layers": 2,
    }


def constants(config: Config, head: DFINEOptions, layers: int) -> dict[str, Tensor]:
    """Tensors that a file of transformers' holds and that our head derives."""
    import torch

    points = points_of_levels(head.points, config.encoder.strides)
    scale = torch.cat([torch.full((count,), 1 / count) for count in points])
    return {
        "model.decoder.up": torch.tensor([head.up]),
        "model.decoder.reg_scale": torch.tensor([head.reg_scale]),
        **{
            f"model.decoder.layers.{layer}.encoder_attn.num_points_scale": scale.clone()
            for layer in range(layers)
        },
    }
