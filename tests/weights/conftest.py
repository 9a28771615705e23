"""Our state dicts under other projects' names, written the other way round than the loader reads them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from flexdetr.config import BackboneConfig, Config, EncoderConfig
from flexdetr.model.detector import DetectionModel
from flexdetr.model.heads.rtdetr.options import RTDETROptions

State = dict[str, Tensor]
SMALL = Config(
    backbone=BackboneConfig(name="hgnetv2_b0"),
    encoder=EncoderConfig(width=64, ffn=96, expansion=0.5),
    head=RTDETROptions(width=64, ffn=80, layers=2, queries=20),
)


def make_model(config: Config = SMALL, num_classes: int = 5, seed: int = 0) -> DetectionModel:
    """A small detector in which every tensor is random: norms' statistics and zero-initialised heads too."""
    torch.manual_seed(seed)
    model = DetectionModel(config, num_classes)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = (
                torch.rand_like(tensor) - 0.5 if name.endswith("running_var") else torch.randn_like(tensor)
            )
            tensor.add_(0.1 * noise)
    if model.head.denoising is not None:
        with torch.no_grad():
            model.head.denoising.embedding.weight[-1] = 0
    return model.eval()


_LYUWENYU = (
    (r"(.*)\.aggregation\.0\.", r"\1.aggregation_squeeze_conv."),
    (r"(.*)\.aggregation\.1\.", r"\1.aggregation_excitation_conv."),
    (r"encoder\.intra\.layers\.(\d+)\.attention\.", r"encoder.encoder.0.layers.\1.self_attn."),
    (r"encoder\.intra\.layers\.(\d+)\.feed_forward\.", r"encoder.encoder.0.layers.\1."),
    (r"encoder\.intra\.layers\.", "encoder.encoder.0.layers."),
    (r"encoder\.lateral\.", "encoder.lateral_convs."),
    (r"encoder\.downsample\.", "encoder.downsample_convs."),
    (r"encoder\.top_down\.", "encoder.fpn_blocks."),
    (r"encoder\.bottom_up\.", "encoder.pan_blocks."),
    (r"head\.layers\.(\d+)\.attention\.", r"decoder.decoder.layers.\1.self_attn."),
    (r"head\.layers\.(\d+)\.feed_forward\.", r"decoder.decoder.layers.\1."),
    (
        r"head\.layers\.(\d+)\.cross_attention\.offsets\.",
        r"decoder.decoder.layers.\1.cross_attn.sampling_offsets.",
    ),
    (
        r"head\.layers\.(\d+)\.cross_attention\.weights\.",
        r"decoder.decoder.layers.\1.cross_attn.attention_weights.",
    ),
    (
        r"head\.layers\.(\d+)\.cross_attention\.(value|output)\.",
        r"decoder.decoder.layers.\1.cross_attn.\2_proj.",
    ),
    (r"head\.layers\.", "decoder.decoder.layers."),
    (r"head\.denoising\.embedding\.", "decoder.denoising_class_embed."),
    (r"head\.query_position\.", "decoder.query_pos_head."),
    (r"head\.memory_(proj|norm)\.", r"decoder.enc_output.\1."),
    (r"head\.encoder_score\.", "decoder.enc_score_head."),
    (r"head\.encoder_box\.", "decoder.enc_bbox_head."),
    (r"head\.scores\.", "decoder.dec_score_head."),
    (r"head\.boxes\.", "decoder.dec_bbox_head."),
    (r"head\.", "decoder."),
)


def _resnet(name: str) -> str:
    name = re.sub(r"^backbone\.stem\.(\d)\.", lambda m: f"backbone.conv1.conv1_{int(m[1]) + 1}.", name)
    name = re.sub(
        r"^backbone\.stages\.(\d)\.(\d+)\.layers\.(\d)\.",
        lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.branch2{'abc'[int(m[3])]}.",
        name,
    )
    short = r"^backbone\.stages\.(\d)\.(\d+)\.shortcut\.proj\."
    return re.sub(
        short,
        lambda m: f"backbone.res_layers.{m[1]}.blocks.{m[2]}.short.{'' if m[1] == '0' else 'conv.'}",
        name,
    )


def lyuwenyu_names(
    state: Mapping[str, Tensor], *, points: tuple[int, ...] | None = None, version: int = 2
) -> State:
    """lyuwenyu's names, version 1 or 2; ``points`` adds version 2's buffers."""
    named: State = {}
    resnet = "backbone.stages.0.0.layers.0.conv.weight" in state
    for name, tensor in state.items():
        if resnet and name.startswith("backbone."):
            named[_resnet(name)] = tensor
            continue
        if name.startswith("backbone."):
            name = name.replace(".norm.", ".bn.")
        for pattern, target in _LYUWENYU:
            if re.match(pattern, name):
                name = re.sub("^" + pattern, target, name)
                break
        if version == 2:
            name = re.sub(r"(stem2[ab])\.conv\.", r"\1.conv.1.", name)
        else:
            name = re.sub(r"^(encoder\.input_proj\.\d)\.conv\.", r"\1.0.", name)
            name = re.sub(r"^(encoder\.input_proj\.\d)\.norm\.", r"\1.1.", name)
            name = name.replace("enc_output.proj.", "enc_output.0.").replace(
                "enc_output.norm.", "enc_output.1."
            )
        named[name] = tensor
    packed = _pack(named)
    if points is not None:
        scale = torch.cat([torch.full((count,), 1 / count) for count in points])
        layers = {int(m[1]) for name in packed if (m := re.match(r"decoder\.decoder\.layers\.(\d+)\.", name))}
        packed |= {f"decoder.decoder.layers.{layer}.cross_attn.num_points_scale": scale for layer in layers}
        packed |= {
            "decoder.anchors": torch.full((1, 8, 4), torch.inf),
            "decoder.valid_mask": torch.ones(1, 8, 1).bool(),
        }
    return packed


def _pack(state: State) -> State:
    packed: State = {}
    for name, tensor in state.items():
        if ".self_attn.query_key." in name:
            value = state[name.replace(".query_key.", ".value.")]
            packed[name.replace(".query_key.", ".in_proj_")] = torch.cat([tensor, value])
        elif ".self_attn.value." not in name:
            packed[name.replace(".self_attn.output.", ".self_attn.out_proj.")] = tensor
    return packed


def paddle_names(state: Mapping[str, Tensor]) -> State:
    """PaddleDetection's names and layout."""
    named: State = {}
    counts = {"3": 4, "4": 23} if "backbone.stages.2.22.layers.0.conv.weight" in state else {}
    for name, tensor in lyuwenyu_names(state, version=1).items():
        if name.endswith("num_batches_tracked"):
            continue
        if name == "decoder.denoising_class_embed.weight":
            tensor = tensor[:-1]
        elif tensor.ndim == 2:
            tensor = tensor.T.contiguous()
        name = re.sub(r"^decoder\.decoder\.", "transformer.decoder.", name)
        name = re.sub(r"^decoder\.", "transformer.", name)
        if name.startswith("encoder.") and "input_proj" not in name and "encoder.encoder" not in name:
            name = name.replace(".norm.", ".bn.")
        name = re.sub(r"^encoder\.", "neck.", name)
        name = name.replace("running_mean", "_mean").replace("running_var", "_variance")

        def block(match: re.Match[str]) -> str:
            stage, index = int(match[1]) + 2, int(match[2])
            letter = f"b{index}" if counts and stage == 4 and index else chr(ord("a") + index)
            return f"backbone.res{stage}.res{stage}{letter}."

        named[re.sub(r"^backbone\.res_layers\.(\d)\.blocks\.(\d+)\.", block, name)] = tensor
    return named


def ultralytics_names(state: Mapping[str, Tensor], blocks: tuple[int, ...]) -> State:
    """The numbered layers of rtdetr-l.yaml (blocks 1, 1, 3, 1) or rtdetr-x.yaml (1, 2, 5, 2)."""
    numbers: dict[str, int] = {"backbone.stem.": 0}
    number = 1
    for stage, count in enumerate(blocks):
        if stage:
            numbers[f"backbone.stages.{stage}.downsample."] = number
            number += 1
        for block in range(count):
            numbers[f"backbone.stages.{stage}.blocks.{block}."] = number
            number += 1
    tail = (
        "encoder.input_proj.2. encoder.encoder.0.layers.0. encoder.lateral_convs.0. up encoder.input_proj.1. cat "
        "encoder.fpn_blocks.0. encoder.lateral_convs.1. up encoder.input_proj.0. cat encoder.fpn_blocks.1. "
        "encoder.downsample_convs.0. cat encoder.pan_blocks.0. encoder.downsample_convs.1. cat encoder.pan_blocks.1. "
        "decoder."
    )
    for place in tail.split():
        numbers[place] = number
        number += 1
    named: State = {}
    for name, tensor in lyuwenyu_names(state, version=1).items():
        place = next(place for place in numbers if name.startswith(place))
        inside = name.removeprefix(place)
        if place.startswith("encoder.encoder"):
            inside = inside.replace("self_attn.", "ma.").replace("linear", "fc")
        elif place.startswith("encoder.input_proj"):
            inside = {"0": "conv", "1": "bn"}[inside[0]] + inside[1:]
        elif place == "decoder.":
            inside = inside.removeprefix("decoder.") if inside.startswith("decoder.layers") else inside
            inside = re.sub(r"^(input_proj\.\d)\.conv\.", r"\1.0.", inside)
            inside = re.sub(r"^(input_proj\.\d)\.norm\.", r"\1.1.", inside)
            if inside.startswith("denoising"):
                tensor = tensor[:-1]
        else:
            inside = (
                inside.replace(".norm.", ".bn.").replace("norm.", "bn.", 1) if "norm." in inside else inside
            )
            inside = inside.replace("aggregation_squeeze_conv", "sc").replace(
                "aggregation_excitation_conv", "ec"
            )
            if "_blocks" in place:
                inside = re.sub(r"^conv([123])\.", r"cv\1.", inside).replace("bottlenecks.", "m.")
            else:
                inside = re.sub(r"^layers\.", "m.", inside)
        named[f"model.{numbers[place]}.{inside}"] = tensor
    return named


@pytest.fixture(scope="session")
def dialects() -> SimpleNamespace:
    """The functions of this file, for tests."""
    return SimpleNamespace(
        small=SMALL,
        make_model=make_model,
        lyuwenyu=lyuwenyu_names,
        paddle=paddle_names,
        ultralytics=ultralytics_names,
    )


@pytest.fixture
def save_torch(tmp_path: Path) -> Callable[..., Path]:
    """Writes any object as torch.save does and returns where."""

    def save(content: Any, name: str = "checkpoint.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def save_paddle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a state dict as paddle.save does and returns where."""

    def save(state: Mapping[str, Tensor], name: str = "checkpoint.pdparams") -> Path:
        arrays: dict[str, Any] = {key: value.numpy() for key, value in state.items()}
        table = {key: f"parameter_{index}.w_0" for index, key in enumerate(state)}
        raw = pickle.dumps({**arrays, "StructuredToParameterName@@": table}, protocol=4)
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    return save
