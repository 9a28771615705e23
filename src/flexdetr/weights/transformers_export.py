"""A detector of ours in transformers' layout: a folder that ``RTDetrForObjectDetection.from_pretrained`` loads.

Names are those of the files on the hub, which every version of transformers reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.files import replacing
from flexdetr.model.heads.dfine.options import DFINEOptions
from flexdetr.model.heads.rtdetr.options import RTDETROptions
from flexdetr.weights import transformers_dfine
from flexdetr.weights.container import WeightsError
from flexdetr.weights.renaming import Rules, rules
from flexdetr.weights.store import Metadata

if TYPE_CHECKING:
    from torch import Tensor

_OURS: Final = "flexdetr"  # our own entry of config.json; transformers keeps what it does not know
_STAGES: Final = 4
_TRUNK: Final = "model.backbone.model."
_RULES: Final[Rules] = rules(
    (r"backbone\.stem\.(stem\d[ab]?)\.", rf"{_TRUNK}embedder.\1."),
    (r"backbone\.stem\.(\d)\.", rf"{_TRUNK}embedder.embedder.\1."),
    (r"backbone\.stages\.(\d)\.(downsample|blocks)\.", rf"{_TRUNK}encoder.stages.\1.\2."),
    (r"backbone\.stages\.(\d)\.(\d+)\.layers\.(\d)\.", rf"{_TRUNK}encoder.stages.\1.layers.\2.layer.\3."),
    (r"backbone\.stages\.0\.(\d+)\.shortcut\.proj\.", rf"{_TRUNK}encoder.stages.0.layers.\1.shortcut."),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.proj\.", rf"{_TRUNK}encoder.stages.\1.layers.\2.shortcut.1."),
    (r"encoder\.input_proj\.(\d+)\.conv\.", r"model.encoder_input_proj.\1.0."),
    (r"encoder\.input_proj\.(\d+)\.norm\.", r"model.encoder_input_proj.\1.1."),
    (
        r"encoder\.intra\.layers\.(\d+)\.attention\.output\.",
        r"model.encoder.encoder.0.layers.\1.self_attn.out_proj.",
    ),
    (r"encoder\.intra\.layers\.(\d+)\.attention\.", r"model.encoder.encoder.0.layers.\1.self_attn."),
    (r"encoder\.intra\.layers\.(\d+)\.feed_forward\.linear", r"model.encoder.encoder.0.layers.\1.fc"),
    (r"encoder\.intra\.layers\.(\d+)\.norm1\.", r"model.encoder.encoder.0.layers.\1.self_attn_layer_norm."),
    (r"encoder\.intra\.layers\.(\d+)\.norm2\.", r"model.encoder.encoder.0.layers.\1.final_layer_norm."),
    (r"encoder\.lateral\.", "model.encoder.lateral_convs."),
    (r"encoder\.downsample\.", "model.encoder.downsample_convs."),
    (r"encoder\.top_down\.", "model.encoder.fpn_blocks."),
    (r"encoder\.bottom_up\.", "model.encoder.pan_blocks."),
    (r"head\.input_proj\.(\d+)\.conv\.", r"model.decoder_input_proj.\1.0."),
    (r"head\.input_proj\.(\d+)\.norm\.", r"model.decoder_input_proj.\1.1."),
    (r"head\.memory_proj\.", "model.enc_output.0."),
    (r"head\.memory_norm\.", "model.enc_output.1."),
    (r"head\.encoder_score\.", "model.enc_score_head."),
    (r"head\.encoder_box\.", "model.enc_bbox_head."),
    (r"head\.denoising\.embedding\.", "model.denoising_class_embed."),
    (r"head\.query_position\.", "model.decoder.query_pos_head."),
    (r"head\.scores\.", "model.decoder.class_embed."),
    (r"head\.boxes\.", "model.decoder.bbox_embed."),
    (r"head\.layers\.(\d+)\.attention\.output\.", r"model.decoder.layers.\1.self_attn.out_proj."),
    (r"head\.layers\.(\d+)\.attention\.", r"model.decoder.layers.\1.self_attn."),
    (r"head\.layers\.(\d+)\.norm1\.", r"model.decoder.layers.\1.self_attn_layer_norm."),
    (r"head\.layers\.(\d+)\.norm2\.", r"model.decoder.layers.\1.encoder_attn_layer_norm."),
    (r"head\.layers\.(\d+)\.norm3\.", r"model.decoder.layers.\1.final_layer_norm."),
    (r"head\.layers\.(\d+)\.feed_forward\.linear", r"model.decoder.layers.\1.fc"),
    (
        r"head\.layers\.(\d+)\.cross_attention\.offsets\.",
        r"model.decoder.layers.\1.encoder_attn.sampling_offsets.",
    ),
    (
        r"head\.layers\.(\d+)\.cross_attention\.weights\.",
        r"model.decoder.layers.\1.encoder_attn.attention_weights.",
    ),
    (
        r"head\.layers\.(\d+)\.cross_attention\.value\.",
        r"model.decoder.layers.\1.encoder_attn.value_proj.",
    ),
    (
        r"head\.layers\.(\d+)\.cross_attention\.output\.",
        r"model.decoder.layers.\1.encoder_attn.output_proj.",
    ),
)


def to_transformers(
    state: Mapping[str, Tensor],
    config: Config,
    classes: Classes,
    folder: str | Path,
    *,
    norm_eps: Mapping[str, float] | None = None,
    metadata: Metadata | None = None,
) -> Path:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``.

    transformers runs every decoder layer of a file; where the configuration runs fewer (``head.eval_layers``),
    only those are written, so that the boxes stay the same. A batch-norm eps that transformers cannot express goes
    into the running variances, which is the same function in evaluation mode.

    Args:
        state: a detector's state dict.
        config: its configuration.
        classes: of its head; ids with holes survive in an entry of our own.
        folder: made where it is missing.
        norm_eps: see ``store.Metadata``.
        metadata: whose licence and provenance go along, in the entry of our own.

    Returns:
        The folder.

    Raises:
        WeightsError: if a part of the detector has no counterpart in transformers, or the disk is full.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    refuse_parts(config)
    described = describe(config, classes)
    if metadata is not None:
        described[_OURS] |= {"licence": metadata.licence, "provenance": metadata.provenance}
    tensors = dict(state)
    eps = dict(norm_eps or {})
    if set(eps) == {"encoder", "head"} and eps["encoder"] == eps["head"]:
        described["batch_norm_eps"] = eps["encoder"]
    else:
        tensors = _absorb_eps(tensors, eps)
    layers = described["decoder_layers"]
    fine = isinstance(config.head, DFINEOptions)
    table = [*transformers_dfine.WRITE, *_RULES] if fine else _RULES
    renamed = renamed_state(tensors, layers, frozen=described["freeze_backbone_batch_norms"], table=table)
    if isinstance(config.head, DFINEOptions):
        renamed.update(transformers_dfine.constants(config, config.head, layers))
    elif described["model_type"] == "rt_detr_v2":
        renamed.update(_point_scales(config, layers))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "model.safetensors") as temporary:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in renamed.items()}
            save_file(plain, temporary, metadata={"format": "pt"})
        for file, content in (("config.json", described), ("preprocessor_config.json", preprocessor(config))):
            with replacing(folder / file) as temporary:
                temporary.write_text(
                    json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
                )
    except OSError as error:
        raise WeightsError(f"cannot write {folder}: {error}") from error
    return folder


def renamed_state(
    state: Mapping[str, Tensor], layers: int, *, frozen: bool, table: Rules = _RULES
) -> dict[str, Tensor]:
    """A state dict under transformers' names.

    ``layers`` decoder layers are written; the norms of a ``frozen`` backbone have no counters.

    Raises:
        WeightsError: if a tensor has no place there.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not _is_dropped(name, layers, frozen=frozen):
            renamed |= _renamed(name, tensor, table)
    return renamed


def _is_dropped(name: str, layers: int, *, frozen: bool) -> bool:
    """Decoder layers that do not run, and the counters that transformers' frozen norms do not have."""
    parts = name.split(".")
    if parts[:2] in (["head", "layers"], ["head", "scores"], ["head", "boxes"]):
        return int(parts[2]) >= layers
    return frozen and parts[0] == "backbone" and parts[-1] == "num_batches_tracked"


def _renamed(name: str, tensor: Tensor, table: Rules) -> dict[str, Tensor]:
    """One tensor under transformers' name; queries and keys apart."""
    for pattern, target in table:
        if (match := pattern.match(name)) is not None and target is not None:
            theirs = match.expand(target) + name[match.end() :]
            break
    else:
        raise WeightsError(f"transformers has no place for {name}")
    if theirs.startswith(_TRUNK):
        theirs = theirs.replace(".conv.", ".convolution.").replace(".norm.", ".normalization.")
    if ".query_key." in theirs:
        half = tensor.shape[0] // 2
        return {
            theirs.replace(".query_key.", ".q_proj."): tensor[:half],
            theirs.replace(".query_key.", ".k_proj."): tensor[half:],
        }
    return {theirs.replace(".self_attn.value.", ".self_attn.v_proj."): tensor}


def _absorb_eps(state: dict[str, Tensor], eps: Mapping[str, float]) -> dict[str, Tensor]:
    for path in sorted(eps, key=len):
        for name, tensor in state.items():
            longest = max((other for other in eps if _is_below(name, other)), key=len, default=None)
            if name.endswith(".running_var") and longest == path:
                state[name] = tensor + (eps[path] - 1e-5)
    return state


def _is_below(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _point_scales(config: Config, layers: int) -> dict[str, Tensor]:
    import torch

    points = _points(config)
    scale = torch.full((points * len(config.encoder.strides),), 1 / points)
    return {
        f"model.decoder.layers.{layer}.encoder_attn.n_points_scale": scale.clone() for layer in range(layers)
    }


def _head(config: Config) -> RTDETROptions | DFINEOptions:
    if not isinstance(config.head, RTDETROptions | DFINEOptions):
        raise WeightsError(f"transformers has no counterpart of head={config.head.name}")
    return config.head


def _points(config: Config) -> int:
    points = _head(config).points
    return points if isinstance(points, int) else points[0]


def refuse_parts(config: Config) -> None:
    """Refuse a detector with parts that transformers does not have.

    Raises:
        WeightsError: with all of them.
    """
    encoder, head = config.encoder, _head(config)
    problems = {
        f"backbone {config.backbone.name}": config.backbone.name not in _BACKBONES,
        "attention inserts": bool(config.attention),
        "pruned layers": bool(config.pruned),
        f"encoder.intra={encoder.intra}": encoder.intra not in ("aifi", "none"),
        "backbone.options.pool_padding=paddle": config.backbone.options.get("pool_padding") == "paddle",
    }
    if isinstance(head, DFINEOptions):
        family = "D-FINE"
        problems |= transformers_dfine.refusals(config, head)
    else:
        family, points = "RT-DETR", head.points
        problems |= {
            f"encoder.fusion={encoder.fusion}": encoder.fusion != "csprep",
            f"encoder.depth={encoder.depth}": round(3 * encoder.depth) != 3,
            f"encoder.strides={list(encoder.strides)}": encoder.strides[0] != 8 or len(encoder.strides) > 3,
            f"head.points={points}": not isinstance(points, int) and len(set(points)) > 1,
            f"head.activation={head.activation}": head.activation != "relu",
            f"head.position_layers={head.position_layers}": head.position_layers != 2,
        }
    problems[f"data.channels={config.data.channels}"] = config.data.channels != 3
    found = [what for what, problem in problems.items() if problem]
    if found:
        raise WeightsError(f"transformers' {family} has no counterpart of {', '.join(found)}")


def describe(config: Config, classes: Classes) -> dict[str, Any]:
    """``config.json`` of a detector."""
    encoder, decoder = config.encoder, _head(config)
    levels = len(encoder.strides)
    second = decoder.sampling == "discrete" or config.model.startswith("rtdetrv2")
    first = encoder.strides[0].bit_length() - 2  # stage 1 has stride 4
    last = first + levels - 1
    # Stages behind the last level do not exist in our backbones either.
    backbone = {
        key: value[:last] if isinstance(value, list) and len(value) == _STAGES else value
        for key, value in _BACKBONES[config.backbone.name](config).items()
    }
    stages = range(first, last + 1)
    backbone |= {"out_features": [f"stage{stage}" for stage in stages], "out_indices": list(stages)}
    widths = backbone["hidden_sizes"][first - 1 : last]
    content: dict[str, Any] = {
        "architectures": ["RTDetrV2ForObjectDetection" if second else "RTDetrForObjectDetection"],
        "model_type": "rt_detr_v2" if second else "rt_detr",
        "backbone_config": backbone,
        "freeze_backbone_batch_norms": config.backbone.freeze_norms,
        "batch_norm_eps": 1e-5,
        "layer_norm_eps": 1e-5,
        "encoder_hidden_dim": encoder.width,
        "encoder_in_channels": widths,
        "feat_strides": list(encoder.strides),
        "encoder_layers": encoder.intra_layers if encoder.intra == "aifi" else 0,
        "encoder_ffn_dim": encoder.ffn,
        "encoder_attention_heads": encoder.heads,
        "encode_proj_layers": [levels - 1],
        "positional_encoding_temperature": 10000,
        "encoder_activation_function": "gelu",
        "activation_function": "silu",
        "normalize_before": False,
        "hidden_expansion": encoder.expansion,
        "d_model": decoder.width,
        "num_queries": decoder.queries,
        "decoder_in_channels": [encoder.width] * levels,
        "decoder_ffn_dim": decoder.ffn,
        "num_feature_levels": levels,
        "decoder_n_points": _points(config),
        "decoder_layers": decoder.eval_layers or decoder.layers,
        "decoder_attention_heads": decoder.heads,
        "decoder_activation_function": "relu",
        "num_denoising": decoder.denoising,
        "label_noise_ratio": decoder.label_noise,
        "box_noise_scale": decoder.box_noise,
        "learn_initial_query": False,
        "with_box_refine": True,
        "is_encoder_decoder": True,
        "id2label": {str(index): name for index, name in enumerate(classes.names)},
        "label2id": {name: index for index, name in enumerate(classes.names)},
        "dtype": "float32",
        _OURS: {"config": config.model_dump(mode="json"), "classes": classes.to_json()},
    }
    if isinstance(decoder, DFINEOptions):
        return content | transformers_dfine.describe(config, decoder)
    if second:
        content |= {
            "decoder_n_levels": levels,
            "decoder_offset_scale": 0.5,
            "decoder_method": "discrete" if decoder.sampling == "discrete" else "default",
        }
    return content


def preprocessor(config: Config) -> dict[str, Any]:
    """``preprocessor_config.json``: the image squeezed to exactly the network's size, divided by 255."""
    height, width = config.image_size
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": False,
        "format": "coco_detection",
    }


def _resnet(depths: tuple[int, ...], kind: str) -> Callable[[Config], dict[str, Any]]:
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]

    def section(_: Config) -> dict[str, Any]:
        return {
            "model_type": "rt_detr_resnet",
            "num_channels": 3,
            "embedding_size": 64,
            "hidden_sizes": widths,
            "depths": list(depths),
            "layer_type": kind,
            "hidden_act": "relu",
        }

    return section


def _hgnetv2(variant: str) -> Callable[[Config], dict[str, Any]]:
    def section(config: Config) -> dict[str, Any]:
        from flexdetr.model.backbones.hgnetv2 import HGNETV2

        row = HGNETV2[variant]
        out = [stage.out for stage in row.stages]
        use_lab = config.backbone.options.get("use_lab")
        if config.backbone.name in ("hgnetv2_s", "hgnetv2_m"):
            use_lab = use_lab or False
        return {
            "model_type": "hgnet_v2",
            "num_channels": 3,
            "embedding_size": row.stem[1],
            "hidden_sizes": out,
            "depths": [stage.blocks for stage in row.stages],
            "hidden_act": "relu",
            "stem_channels": [3, *row.stem],
            "stage_in_channels": [row.stem[1], *out[:-1]],
            "stage_mid_channels": [stage.inner for stage in row.stages],
            "stage_out_channels": out,
            "stage_num_blocks": [stage.blocks for stage in row.stages],
            "stage_downsample": [index > 0 for index in range(len(row.stages))],
            "stage_light_block": [stage.light for stage in row.stages],
            "stage_kernel_size": [stage.kernel for stage in row.stages],
            "stage_numb_of_layers": [row.layers] * len(row.stages),
            "use_learnable_affine_block": row.use_lab if use_lab is None else use_lab,
        }

    return section


_SIZES: Final = {"s": "b1", "m": "b2", "l": "b4", "x": "b5", "h": "b6"}
_BACKBONES: Final[dict[str, Callable[[Config], dict[str, Any]]]] = {
    "resnet18_vd": _resnet((2, 2, 2, 2), "basic"),
    "resnet34_vd": _resnet((3, 4, 6, 3), "basic"),
    "resnet50_vd": _resnet((3, 4, 6, 3), "bottleneck"),
    "resnet101_vd": _resnet((3, 4, 23, 3), "bottleneck"),
    **{f"hgnetv2_b{size}": _hgnetv2(f"b{size}") for size in range(7)},
    **{f"hgnetv2_{size}": _hgnetv2(variant) for size, variant in _SIZES.items()},
}
