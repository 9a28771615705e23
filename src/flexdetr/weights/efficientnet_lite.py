"""EfficientNet-Lite as lukemelas' and ml-illustrated's code names it, under timm's names, classifier included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred

# Blocks of each of timm's stages, by how many there are altogether: Lite0; Lite1 and Lite2.
_STAGES: Final = {16: (1, 2, 2, 3, 3, 4, 1), 21: (1, 3, 3, 4, 4, 5, 1)}
_OUTSIDE: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST: Final = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS: Final = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK: Final = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def is_lite(tensors: Mapping[str, Deferred]) -> bool:
    """Whether a state dict has these names: those of an EfficientNet without squeeze-excitation."""
    return "_conv_stem.weight" in tensors and not any("._se_" in name for name in tensors)


def as_timm(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """The same tensors under timm's names of ``tf_efficientnet_lite0/1/2``.

    Raises:
        WeightsError: if the blocks are those of another size, or a tensor has no place.
    """
    count = 1 + max((int(found[1]) for name in tensors if (found := _BLOCK.match(name))), default=-1)
    if count not in _STAGES:
        raise WeightsError(f"it is an EfficientNet-Lite with {count} blocks, and FlexDETR has Lite0, 1 and 2")
    places = [f"blocks.{stage}.{block}" for stage, size in enumerate(_STAGES[count]) for block in range(size)]
    return {_timm_name(name, places): tensor for name, tensor in tensors.items()}


def _timm_name(name: str, places: list[str]) -> str:
    if (found := _BLOCK.fullmatch(name)) is not None:
        number, layer, value = int(found[1]), found[2], found[3]
        layers = _OTHERS if number else _FIRST
        if layer in layers:
            return f"{places[number]}.{layers[layer]}.{value}"
    layer, _, value = name.partition(".")
    if layer not in _OUTSIDE:
        raise WeightsError(f"{name} has no place in an EfficientNet-Lite")
    return f"{_OUTSIDE[layer]}.{value}"
