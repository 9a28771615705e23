"""Name rules of backbones, for every project that has them; each maps to our trunk (``stem``, ``stages``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from flexdetr.weights.deferred import Deferred
from flexdetr.weights.renaming import KEEP, Renamed, Rules, norm_names, rename, rules

# PP-HGNetV2 of Paddle (`aggregation_squeeze_conv`), lyuwenyu (the same, with a pad module before two convolutions),
# timm and D-FINE (`aggregation.0`).
_HGNETV2: Rules = rules(
    (r"stem\.(stem2[ab])\.conv\.1\.", r"stem.\1.conv."),
    (r"stem\.stem", KEEP),
    (r"stages\.(\d+)\.blocks\.(\d+)\.aggregation_squeeze_conv\.", r"stages.\1.blocks.\2.aggregation.0."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.aggregation_excitation_conv\.", r"stages.\1.blocks.\2.aggregation.1."),
    (r"stages\.\d+\.blocks\.\d+\.(?:aggregation\.[01]|layers\.\d+)\.", KEEP),
    (r"stages\.\d+\.downsample\.", KEEP),
    (r"last_conv\.|lab\.|fc\.|head\.|classifier\.", None),
)

_HGNET: Rules = rules(
    (r"stem\.(?:stem\.)?(\d)\.", r"stem.\1."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.aggregation_conv\.", r"stages.\1.blocks.\2.aggregation.0."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.att\.", r"stages.\1.blocks.\2.aggregation.1."),
    (r"stages\.\d+\.blocks\.\d+\.(?:aggregation\.[01]|layers\.\d+)\.", KEEP),
    (r"stages\.\d+\.downsample\.", KEEP),
    (r"last_conv\.|fc\.|head\.", None),
)

# ResNet-vd of lyuwenyu.
_RESNET: Rules = rules(
    (r"conv1\.conv1_1\.", "stem.0."),
    (r"conv1\.conv1_2\.", "stem.1."),
    (r"conv1\.conv1_3\.", "stem.2."),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2a\.", r"stages.\1.\2.layers.0."),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2b\.", r"stages.\1.\2.layers.1."),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2c\.", r"stages.\1.\2.layers.2."),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.short\.conv\.(conv|norm)\.", r"stages.\1.\2.shortcut.proj.\3."),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.short\.(conv|norm)\.", r"stages.\1.\2.shortcut.proj.\3."),
    (r"fc\.|head\.", None),
)

# transformers' rt_detr_resnet and hgnet_v2.
_TRANSFORMERS: Rules = rules(
    (r"embedder\.embedder\.(\d)\.", r"stem.\1."),
    (r"embedder\.(stem\d[ab]?)\.", r"stem.\1."),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.", r"stages.\1.\2.layers.\3."),
    (r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(?:1\.)?", r"stages.\1.\2.shortcut.proj."),
    (r"encoder\.stages\.(\d+)\.(blocks|downsample)\.", r"stages.\1.\2."),
    (r"classifier\.", None),
)

_GHOSTNETV3: Rules = rules(
    (r"conv_stem\.", "stem.conv."),
    (r"bn1\.", "stem.norm."),
    (r"(stages\.\d\.\d\.ghost[12])\.(primary|cheap)_rpr_conv\.(\d)\.", r"\1.\2.branches.\3."),
    (r"(stages\.\d\.\d\.ghost[12])\.(primary|cheap)_rpr_scale\.", r"\1.\2.scale."),
    (r"(stages\.\d\.\d\.ghost[12])\.(primary|cheap)_rpr_skip\.", r"\1.\2.identity."),
    (r"(stages\.\d\.\d)\.dw_rpr_conv\.(\d)\.", r"\1.depthwise.branches.\2."),
    (r"(stages\.\d\.\d)\.dw_rpr_scale\.", r"\1.depthwise.scale."),
    (r"(stages\.\d\.\d)\.se\.conv_(reduce|expand)\.", r"\1.se.\2."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.0\.", r"\1.gate.0.conv."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.1\.", r"\1.gate.0.norm."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.2\.", r"\1.gate.1.conv."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.3\.", r"\1.gate.1.norm."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.4\.", r"\1.gate.2.conv."),
    (r"(stages\.\d\.\d\.ghost1)\.short_conv\.5\.", r"\1.gate.2.norm."),
    (r"(stages\.\d\.\d)\.shortcut\.0\.", r"\1.shortcut.0.conv."),
    (r"(stages\.\d\.\d)\.shortcut\.1\.", r"\1.shortcut.0.norm."),
    (r"(stages\.\d\.\d)\.shortcut\.2\.", r"\1.shortcut.1.conv."),
    (r"(stages\.\d\.\d)\.shortcut\.3\.", r"\1.shortcut.1.norm."),
    (r"blocks\.9\.|conv_head\.|classifier\.", None),
)

_HEAD: Final = "the classifier"


def rename_backbone(tensors: Mapping[str, Deferred]) -> Renamed | None:
    """A backbone's tensors under our names.

    ``tensors`` are a trunk's, without a prefix; classifier heads may be there.

    Returns:
        Names below ``backbone.`` left out; None if no family is recognised.
    """
    for marks, change, table in _FAMILIES:
        if all(mark in tensors for mark in marks):
            return rename(change(tensors), table, reason=_HEAD)
    return None


def _paddle_resnet(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """PaddleDetection's ``res2.res2a`` ... as lyuwenyu's ``res_layers.0.blocks.0``.

    Blocks are lettered a, b, c ...; a depth of 101 numbers them: res4a, res4b1, res4b2 ...
    """
    pattern = re.compile(r"res(\d)\.res\d(?:([a-z])(\d*))\.")

    def place(match: re.Match[str]) -> str:
        block = int(match[3]) if match[3] else ord(match[2]) - ord("a")
        return f"res_layers.{int(match[1]) - 2}.blocks.{block}."

    return {pattern.sub(place, name): tensor for name, tensor in norm_names(tensors).items()}


def _paddleclas_resnet(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """PaddleClas numbers the blocks through all stages; each stage begins with a block that has a ``short``."""
    blocks = sorted({int(name.split(".")[1]) for name in tensors if re.match(r"blocks\.\d+\.", name)})
    places, stage, inside = {}, -1, 0
    for block in blocks:
        if f"blocks.{block}.short.conv.weight" in tensors:
            stage, inside = stage + 1, 0
        places[block] = f"res_layers.{stage}.blocks.{inside}"
        inside += 1
    renamed = {}
    for name, tensor in norm_names(tensors).items():
        name = re.sub(r"^stem\.(\d)\.", lambda match: f"conv1.conv1_{int(match[1]) + 1}.", name)
        name = re.sub(r"^blocks\.(\d+)", lambda match: places[int(match[1])], name)
        name = re.sub(
            r"\.conv([012])\.(conv|norm)\.", lambda match: f".branch2{'abc'[int(match[1])]}.{match[2]}.", name
        )
        renamed[name] = tensor
    return renamed


def _transformers(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    return {
        name.replace(".convolution.", ".conv.").replace(".normalization.", ".norm."): tensor
        for name, tensor in tensors.items()
    }


# Which stage the groups of the table begin in, and after how many blocks: 1; 1 + 1; 1 + 1; 1 + 5; 1 + 4.
_GHOST_GROUPS: Final = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1))


def _ghostnetv3(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Groups of blocks as stages of one stride; timm's ``bn1`` of a branch as Huawei's ``bn``."""

    def place(match: re.Match[str]) -> str:
        stage, before = _GHOST_GROUPS[int(match[1])]
        return f"stages.{stage}.{before + int(match[2])}."

    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^blocks\.([0-8])\.(\d+)\.", place, name)
        name = re.sub(r"(_rpr_(?:conv\.\d|scale))\.bn1?\.", r"\1.norm.", name)
        renamed[name] = tensor
    return renamed


_FAMILIES: Final[
    tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Deferred]], dict[str, Deferred]], Rules], ...]
] = (
    (("stem.stem1.conv.weight",), norm_names, _HGNETV2),
    (("stem.0.conv.weight", "stages.0.blocks.0.layers.0.conv.weight"), norm_names, _HGNET),
    (("stem.stem.0.conv.weight",), norm_names, _HGNET),
    (("conv1.conv1_1.conv.weight", "res_layers.0.blocks.0.branch2a.conv.weight"), norm_names, _RESNET),
    (("conv1.conv1_1.conv.weight", "res2.res2a.branch2a.conv.weight"), _paddle_resnet, _RESNET),
    (("stem.0.conv.weight", "blocks.0.conv0.conv.weight"), _paddleclas_resnet, _RESNET),
    (("embedder.embedder.0.convolution.weight",), _transformers, _TRANSFORMERS),
    (("embedder.stem1.convolution.weight",), _transformers, _TRANSFORMERS),
    (("conv_stem.weight", "blocks.0.0.ghost1.primary_rpr_conv.0.conv.weight"), _ghostnetv3, _GHOSTNETV3),
)
