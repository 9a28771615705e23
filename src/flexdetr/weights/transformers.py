"""transformers' rt_detr, rt_detr_v2 and d_fine, read: names of the hub's files and those of version 5 in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on only

from flexdetr.classes import ClassError, Classes
from flexdetr.weights import transformers_dfine
from flexdetr.weights.backbone_names import rename_backbone
from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import Renamed, Rules, rename, rules

_LAYERS: Final = r"(?:encoder|aifi)\.0\.layers\.(\d+)\."
_BODY: Final[Rules] = rules(
    (r"encoder_input_proj\.(\d+)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"encoder_input_proj\.(\d+)\.1\.", r"encoder.input_proj.\1.norm."),
    (rf"encoder\.{_LAYERS}self_attn\.q_proj\.", r"encoder.intra.layers.\1.attention.query."),
    (rf"encoder\.{_LAYERS}self_attn\.k_proj\.", r"encoder.intra.layers.\1.attention.key."),
    (rf"encoder\.{_LAYERS}self_attn\.v_proj\.", r"encoder.intra.layers.\1.attention.value."),
    (rf"encoder\.{_LAYERS}self_attn\.(?:out_proj|o_proj)\.", r"encoder.intra.layers.\1.attention.output."),
    (rf"encoder\.{_LAYERS}self_attn_layer_norm\.", r"encoder.intra.layers.\1.norm1."),
    (rf"encoder\.{_LAYERS}final_layer_norm\.", r"encoder.intra.layers.\1.norm2."),
    (rf"encoder\.{_LAYERS}(?:mlp\.)?fc([12])\.", r"encoder.intra.layers.\1.feed_forward.linear\2."),
    (rf"encoder\.{_LAYERS}mlp\.layers\.0\.", r"encoder.intra.layers.\1.feed_forward.linear1."),
    (rf"encoder\.{_LAYERS}mlp\.layers\.1\.", r"encoder.intra.layers.\1.feed_forward.linear2."),
    (r"encoder\.lateral_convs\.", "encoder.lateral."),
    (r"encoder\.downsample_convs\.", "encoder.downsample."),
    (r"encoder\.fpn_blocks\.", "encoder.top_down."),
    (r"encoder\.pan_blocks\.", "encoder.bottom_up."),
    (r"decoder_input_proj\.(\d+)\.0\.", r"head.input_proj.\1.conv."),
    (r"decoder_input_proj\.(\d+)\.1\.", r"head.input_proj.\1.norm."),
    (r"enc_output\.0\.", "head.memory_proj."),
    (r"enc_output\.1\.", "head.memory_norm."),
    (r"enc_score_head\.", "head.encoder_score."),
    (r"enc_bbox_head\.", "head.encoder_box."),
    (r"denoising_class_embed\.", "head.denoising.embedding."),
    (r"decoder\.layers\.\d+\.encoder_attn\.(?:n_points_scale|num_points_scale)$", None),
    (r"decoder\.layers\.(\d+)\.self_attn\.q_proj\.", r"head.layers.\1.attention.query."),
    (r"decoder\.layers\.(\d+)\.self_attn\.k_proj\.", r"head.layers.\1.attention.key."),
    (r"decoder\.layers\.(\d+)\.self_attn\.v_proj\.", r"head.layers.\1.attention.value."),
    (r"decoder\.layers\.(\d+)\.self_attn\.(?:out_proj|o_proj)\.", r"head.layers.\1.attention.output."),
    (r"decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"head.layers.\1.norm1."),
    (
        r"decoder\.layers\.(\d+)\.encoder_attn\.sampling_offsets\.",
        r"head.layers.\1.cross_attention.offsets.",
    ),
    (
        r"decoder\.layers\.(\d+)\.encoder_attn\.attention_weights\.",
        r"head.layers.\1.cross_attention.weights.",
    ),
    (r"decoder\.layers\.(\d+)\.encoder_attn\.value_proj\.", r"head.layers.\1.cross_attention.value."),
    (r"decoder\.layers\.(\d+)\.encoder_attn\.output_proj\.", r"head.layers.\1.cross_attention.output."),
    (r"decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"head.layers.\1.norm2."),
    (r"decoder\.layers\.(\d+)\.final_layer_norm\.", r"head.layers.\1.norm3."),
    (r"decoder\.layers\.(\d+)\.(?:mlp\.)?fc([12])\.", r"head.layers.\1.feed_forward.linear\2."),
    (r"decoder\.layers\.(\d+)\.mlp\.layers\.0\.", r"head.layers.\1.feed_forward.linear1."),
    (r"decoder\.layers\.(\d+)\.mlp\.layers\.1\.", r"head.layers.\1.feed_forward.linear2."),
    (r"decoder\.query_pos_head\.", "head.query_position."),
    (r"decoder\.class_embed\.", "head.scores."),
    (r"decoder\.bbox_embed\.", "head.boxes."),
    (r"anchors$|valid_mask$", None),
)
_COPIES: Final = ("class_embed.", "bbox_embed.")


def rename_transformers(tensors: Mapping[str, Deferred]) -> Renamed:
    """A detector under our names.

    ``tensors`` are ``model.*`` and, in some versions' files, copies of the heads at the top level.
    """
    body = {
        name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")
    }
    top = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
    left = {}
    for name, tensor in top.items():
        if name.startswith(_COPIES):
            if f"decoder.{name}" in body:
                left[name] = "a copy of the decoder's heads"
            else:
                body[f"decoder.{name}"] = tensor
    trunk = {
        name.removeprefix("backbone.model."): body.pop(name)
        for name in [*body]
        if name.startswith("backbone.model.")
    }
    backbone = rename_backbone(trunk)
    if backbone is None:
        raise WeightsError(
            f"its backbone is not one that FlexDETR has (its first tensor is {next(iter(trunk), 'missing')})"
        )
    fine = any(name.startswith("decoder.pre_bbox_head.") for name in body)
    whole = rename(body, [*transformers_dfine.READ, *_BODY] if fine else _BODY)
    whole.unknown = [f"model.{name}" for name in whole.unknown]
    whole.unknown.extend(f"model.backbone.model.{name}" for name in backbone.unknown)
    whole.unknown.extend(name for name in top if not name.startswith(_COPIES))
    whole.state.update({f"backbone.{name}": tensor for name, tensor in backbone.state.items()})
    whole.left = {**{f"model.{name}": reason for name, reason in whole.left.items()}, **left}
    return whole


# What our model does, and what a configuration must therefore not say otherwise.
_FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "activation_function": ("silu",),
    "encoder_activation_function": ("gelu",),
    "decoder_activation_function": ("relu",),
    "normalize_before": (False,),
    "learn_initial_query": (False,),
    "positional_encoding_temperature": (10000,),
    "layer_norm_eps": (1e-5,),
    "with_box_refine": (True,),
    "decoder_offset_scale": (0.5,),
    "decoder_method": ("default", "discrete"),
}


_Count = Annotated[int, Field(gt=0, le=100_000)]
_Counts = Annotated[list[_Count], Field(min_length=1, max_length=16)]


class _Entries(TypedDict, total=False):
    """The entries that are read from ``config.json``; it holds many others."""

    num_feature_levels: Annotated[int, Field(gt=0, le=16)]
    feat_strides: _Counts
    encoder_layers: Annotated[int, Field(ge=0)]
    encode_proj_layers: list[int]
    encoder_attention_heads: _Count
    decoder_attention_heads: _Count
    decoder_n_points: _Count | _Counts
    decoder_method: str
    num_queries: _Count
    num_denoising: Annotated[int, Field(ge=0)]
    label_noise_ratio: float
    box_noise_scale: float
    batch_norm_eps: Annotated[float, Field(gt=0, lt=1)]
    backbone_config: dict[str, Any] | None
    eval_size: Annotated[list[_Count], Field(min_length=2, max_length=2)] | None


_ENTRIES: Final = TypeAdapter(_Entries)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder; empty if there is none.

    Raises:
        WeightsError: if it is no JSON mapping, or an entry that is read has another type than it should have.
    """
    path = folder / "config.json"
    content = _read_json(path)
    try:
        _ENTRIES.validate_python(content, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(key) for key in problem["loc"] if not str(key).endswith("]"))
        raise WeightsError(f"{path}: {place}: {problem['msg']} (got {problem['input']!r:.100})") from None
    return content


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON mapping")
    return content


def refuse_foreign(config: Mapping[str, Any]) -> None:
    """Refuses a configuration that asks for something that our model does not do.

    Raises:
        WeightsError: naming the entry and its value.
    """
    fine = config.get("model_type") == transformers_dfine.MODEL_TYPE
    for key, values in {**_FIXED, **(transformers_dfine.FIXED if fine else {})}.items():
        if key in config and config[key] not in values:
            raise WeightsError(f"its config.json sets {key}={config[key]!r}; FlexDETR has {values[0]!r} only")
    levels = config.get("num_feature_levels", len(config.get("feat_strides", (8, 16, 32))))
    strides = list(config.get("feat_strides", (8, 16, 32)))
    # Its anchors begin at 0.05 whatever the stride; so do ours of D-FINE's head, and RT-DETR's at 8.
    if strides != [(strides[0] if fine else 8) << level for level in range(levels)]:
        raise WeightsError(
            f"its config.json has {levels} levels of strides {strides}; FlexDETR reads 8, 16, 32 and so on"
        )
    if config.get("encoder_layers", 1) and config.get("encode_proj_layers", [levels - 1]) != [levels - 1]:
        raise WeightsError("its config.json encodes other levels than the coarsest, which FlexDETR does not")
    backbone = config.get("backbone_config") or {}
    for key in ("downsample_in_bottleneck", "downsample_in_first_stage"):
        if backbone.get(key):
            raise WeightsError(f"its config.json sets backbone_config.{key}, which no published RT-DETR does")


def known_values(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What shapes do not show of our configuration, from ``config.json`` and ``preprocessor_config.json``."""
    names = {
        "decoder_attention_heads": "heads",
        "num_queries": "queries",
        "num_denoising": "denoising",
        "label_noise_ratio": "label_noise",
        "box_noise_scale": "box_noise",
    }
    head: dict[str, Any] = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    points = config.get("decoder_n_points", 4)
    head["points"] = tuple(points) if isinstance(points, list) else points
    head["sampling"] = "discrete" if config.get("decoder_method") == "discrete" else "bilinear"
    head["eval_layers"] = None  # transformers runs all layers
    if config.get("model_type") == transformers_dfine.MODEL_TYPE:
        head |= transformers_dfine.known_options(config)
    known: dict[str, Any] = {"head": head, "encoder": {}}
    if "encoder_attention_heads" in config:
        known["encoder"]["heads"] = config["encoder_attention_heads"]
    if "feat_strides" in config:
        known["encoder"]["strides"] = tuple(config["feat_strides"])
    size = _read_json(folder / "preprocessor_config.json").get("size", {})
    if isinstance(size, dict) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        known["image_size"] = (size["height"], size["width"])
    elif isinstance(config.get("eval_size"), list):
        known["image_size"] = tuple(config["eval_size"])
    return known


def class_names(config: Mapping[str, Any]) -> list[str] | None:
    """``id2label`` in the head's order."""
    table = config.get("id2label")
    if not isinstance(table, dict) or not all(str(key).isdigit() for key in table):
        return None
    return [str(table[key]) for key in sorted(table, key=int)]


def own_entry(config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, Classes | None]:
    """What FlexDETR wrote beside transformers' own values: its configuration, and the data set's class ids.

    Classes count only while they still have the names that ``id2label`` has.

    Raises:
        WeightsError: if that entry is damaged.
    """
    own = config.get("flexdetr")
    if not isinstance(own, dict):
        return None, None
    try:
        classes = Classes.from_json(own["classes"])
        values = dict(own["config"])
    except (ClassError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"its config.json has a damaged flexdetr entry ({type(error).__name__})") from None
    return values, classes if list(classes.names) == class_names(config) else None


def ancestry(config: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Licence and ancestors of the weights, where FlexDETR wrote them into the configuration."""
    own = config.get("flexdetr")
    licence, rows = (own.get("licence"), own.get("provenance")) if isinstance(own, dict) else (None, None)
    told = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return licence if isinstance(licence, str) else "unknown", told


def norm_eps(config: Mapping[str, Any]) -> dict[str, float]:
    """``batch_norm_eps`` where it is not ours; it does not reach the backbone."""
    eps = config.get("batch_norm_eps", 1e-5)
    return {} if eps == 1e-5 else {"encoder": float(eps), "head": float(eps)}
