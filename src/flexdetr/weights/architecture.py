"""The configuration that a state dict under our names was made for, read off its names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flexdetr.config import Config, build, merge
from flexdetr.model.fusion import blocks_of, hidden_of
from flexdetr.presets import PRESETS
from flexdetr.weights.container import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
_ABSENT: Final = object()

_RESNETS: Final = {
    ((2, 2, 2, 2), 2): "resnet18_vd",
    ((3, 4, 6, 3), 2): "resnet34_vd",
    ((3, 4, 6, 3), 3): "resnet50_vd",
    ((3, 4, 23, 3), 3): "resnet101_vd",
}
# (stem1, stem4, layers of a block, blocks of each stage): name; L, X and H are B4, B5 and B6.
_HGNETV2S: Final = {
    (16, 16, 3, (1, 1, 2, 1)): "hgnetv2_b0",
    (24, 32, 3, (1, 1, 2, 1)): "hgnetv2_b1",
    (24, 32, 4, (1, 1, 3, 1)): "hgnetv2_b2",
    (24, 32, 5, (1, 1, 3, 1)): "hgnetv2_b3",
    (32, 48, 6, (1, 1, 3, 1)): "hgnetv2_l",
    (32, 64, 6, (1, 2, 5, 2)): "hgnetv2_x",
    (48, 96, 6, (2, 3, 6, 3)): "hgnetv2_h",
    (16, 16, 3, (1, 1, 2)): "hgnetv2_pico",
}
_WITHOUT_LAB: Final = frozenset({"hgnetv2_l", "hgnetv2_x", "hgnetv2_h"})
_HGNETS: Final = {(48, 5): "hgnet_tiny", (64, 6): "hgnet_small", (96, 7): "hgnet_base"}
_GHOSTNETS: Final = {8: "ghostnetv3_050", 16: "ghostnetv3_100", 20: "ghostnetv3_130", 24: "ghostnetv3_160"}


def backbone_of(shapes: Shapes) -> dict[str, Any]:
    """Name and options of the backbone.

    ``shapes`` are by our names below ``backbone.``, without that prefix.

    Raises:
        WeightsError: if the shapes are those of no backbone that FlexDETR has.
    """
    options: dict[str, Any] = {}
    signature: Any
    if "stem.stem1.conv.weight" in shapes:
        stem = shapes["stem.stem1.conv.weight"][0], _side(shapes, "stem.stem4.conv.weight")
        signature = (
            *stem,
            _count(shapes, r"stages\.0\.blocks\.0\.layers\.(\d+)\."),
            _blocks(shapes, r"\.blocks"),
        )
        name = _HGNETV2S.get(signature)
        if name == "hgnetv2_pico" or (name is None and len(signature[3]) == 3):
            name = _cut_of(shapes)
        use_lab = "stem.stem1.lab.scale" in shapes
        if name is not None and use_lab == (name in _WITHOUT_LAB):
            options["use_lab"] = use_lab
    elif "stages.0.0.shortcut.proj.conv.weight" in shapes:
        signature = _blocks(shapes, ""), _count(shapes, r"stages\.0\.0\.layers\.(\d+)\.")
        name = _RESNETS.get(signature)
    elif "stages.0.blocks.0.aggregation.1.conv.weight" in shapes:
        signature = (
            _side(shapes, "stem.0.conv.weight"),
            _count(shapes, r"stages\.0\.blocks\.0\.layers\.(\d+)\."),
        )
        name = _HGNETS.get(signature)
    else:
        signature = _side(shapes, "stem.conv.weight")
        name = _GHOSTNETS.get(signature)
    if name is None:
        raise WeightsError(f"its backbone is of a size that FlexDETR does not have: {signature}")
    return {"name": name, **({"options": options} if options else {})}


def _cut_of(shapes: Shapes) -> str | None:
    """Which of DEIMv2's three-stage cuts of B0."""
    width = _side(shapes, "stages.2.blocks.0.aggregation.1.conv.weight")
    blocks = _count(shapes, r"stages\.2\.blocks\.(\d+)\.")
    return {(256, 1): "hgnetv2_atto", (512, 1): "hgnetv2_femto", (512, 2): "hgnetv2_pico"}.get(
        (width, blocks)
    )


def _side(shapes: Shapes, name: str, axis: int = 0) -> int:
    """One side of a tensor; a missing tensor is a partial checkpoint."""
    shape = shapes.get(name)
    if shape is None or len(shape) <= axis:
        raise WeightsError(f"it is incomplete: nothing in it can be {name}")
    return shape[axis]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that a pattern's group finds at the start of a name."""
    compiled = re.compile(pattern)
    return max((int(match[1]) + 1 for name in shapes if (match := compiled.match(name))), default=0)


def _blocks(shapes: Shapes, inside: str) -> tuple[int, ...]:
    """Number of blocks of each stage."""
    stages = _count(shapes, r"stages\.(\d+)\.")
    return tuple(_count(shapes, rf"stages\.{stage}{inside}\.(\d+)\.") for stage in range(stages))


def encoder_of(shapes: Shapes) -> dict[str, Any]:
    """The encoder's section.

    ``shapes`` are by our names, ``encoder.*`` among them.

    Raises:
        WeightsError: if an essential tensor is missing.
    """
    levels = _levels(shapes)
    width = _width(shapes)
    section: dict[str, Any] = {
        "strides": tuple(32 >> (levels - 1 - level) for level in range(levels)),
        "width": width,
    }
    if "encoder.intra.conv.conv.weight" in shapes:
        section["intra"] = "gap"
    else:
        section["intra_layers"] = _count(shapes, r"encoder\.intra\.layers\.(\d+)\.")
        section["intra"] = "aifi" if section["intra_layers"] else "none"
    if section["intra"] == "aifi":
        section["ffn"] = _side(shapes, "encoder.intra.layers.0.feed_forward.linear1.weight")
    if levels > 1:
        section |= _fusion_of(shapes, width)
    return section


def _levels(shapes: Shapes) -> int:
    """Levels of the backbone, and those that the encoder makes of them."""
    return _count(shapes, r"encoder\.input_proj\.(\d+)\.") + _count(shapes, r"encoder\.made\.(\d+)\.")


def _width(shapes: Shapes) -> int:
    """Channels of the encoder's levels; one that has them in the backbone may not be projected."""
    name = re.compile(r"encoder\.input_proj\.\d+\.conv\.weight")
    projections = [found for found in shapes if name.fullmatch(found)]
    return _side(shapes, next(iter(projections), "encoder.input_proj.0.conv.weight"))


def _fusion_of(shapes: Shapes, width: int) -> dict[str, Any]:
    """Kind, hidden width and depth of the fusion blocks."""
    block = "encoder.top_down.0"
    if f"{block}.split.conv.weight" in shapes:
        csp = f"{block}.steps.0.0"
        hidden = _side(shapes, f"{csp}.bottlenecks.0.conv1.conv.weight")
        if "encoder.made.0.1.conv.weight" in shapes:
            fusion = "lite"
        elif _side(shapes, f"{block}.split.conv.weight", 1) != width:
            fusion = "gelan"
        else:
            fusion = "gelan_sum" if f"{block}.steps.0.1.conv.weight" in shapes else "gelan_lean"
        # Half a channel more than the least, because it is rounded down.
        section: dict[str, Any] = {"fusion": fusion, "expansion": (2 * hidden + 0.5) / width}
    else:
        csp = block
        section = {"fusion": "csprep", "expansion": _side(shapes, f"{block}.conv1.conv.weight") / width}
    bottlenecks = _count(shapes, re.escape(csp) + r"\.bottlenecks\.(\d+)\.")
    section["depth"] = {1: 0.34, 2: 0.67, 3: 1.0}.get(bottlenecks, bottlenecks / 3)
    return section


def head_of(shapes: Shapes, known: Mapping[str, Any]) -> dict[str, Any]:
    """The head's section.

    ``known`` is what the source says itself and shapes do not show: heads, points, queries, sampling ...

    Raises:
        WeightsError: if an essential tensor is missing, or the sampling points fit no number of heads.
    """
    levels = _levels(shapes)
    section: dict[str, Any] = {
        "width": _side(shapes, "head.encoder_score.weight", 1),
        "layers": _count(shapes, r"head\.layers\.(\d+)\."),
        "ffn": _side(shapes, "head.layers.0.feed_forward.linear1.weight"),
        **_kind_of(shapes),
        **known,
    }
    total = _side(shapes, "head.layers.0.cross_attention.weights.weight")
    if (points := section.get("points")) is not None:
        section["heads"] = total // (points * levels if isinstance(points, int) else sum(points))
        if not isinstance(points, int) and len(set(points)) == 1:
            section["points"] = points[0]
    else:
        heads = section.get("heads", 8)
        if total % (heads * levels):
            raise WeightsError(
                f"its {total} sampling weights do not divide by {heads} heads and {levels} levels"
            )
        section["points"] = total // (heads * levels)
    if "head.denoising.embedding.weight" not in shapes:
        section["denoising"] = 0
    return section


def _kind_of(shapes: Shapes) -> dict[str, Any]:
    """The head's name, and the options that only this head has."""
    depth = _count(shapes, r"head\.query_position\.layers\.(\d+)\.")
    # Three layers are DEIM's and DEIMv2's, which compute with SiLU throughout (arXiv 2412.04234, 2509.20787).
    silu = {"activation": "silu"} if depth > 2 else {}
    if "head.pre_box.layers.0.weight" not in shapes:
        return {"name": "rtdetr", "position_layers": depth, "activation": "relu", **silu}
    gated = 2 * _side(shapes, "head.layers.0.feed_forward.linear2.weight", 1)
    return {
        "name": "dfine",
        "reg_max": _side(shapes, "head.boxes.0.layers.2.weight") // 4 - 1,
        "norm": "layer" if "head.layers.0.norm1.bias" in shapes else "rms",
        "feed_forward": "swiglu"
        if gated == _side(shapes, "head.layers.0.feed_forward.linear1.weight")
        else "linear",
        "gate": "head.layers.0.gate.gate.weight" in shapes,
        "project_tokens": "head.memory_proj.weight" in shapes,
        "position_layers": depth,
        "position_once": depth > 2,
        "shared_boxes": "head.boxes.1.layers.0.weight" not in shapes
        and "head.layers.1.norm1.weight" in shapes,
        **silu,
    }


def config_of(
    shapes: Shapes, known: Mapping[str, Any], family: str, own: Mapping[str, Any] | None = None
) -> tuple[Config, int]:
    """The nearest preset, changed to what the shapes say.

    ``known`` are values of the configuration that the source states itself, by section; ``family`` is what the
    preset's name should start with where several fit ("rtdetr_", "rtdetrv2_"); ``own`` the configuration that
    FlexDETR itself wrote into the source, taken for the preset.

    Returns:
        The configuration, and the number of classes.

    Raises:
        WeightsError: if the shapes are those of no detector that FlexDETR can build.
        ConfigError: if ``own`` is none that this version knows.
    """
    facts: dict[str, Any] = {
        "encoder": {**encoder_of(shapes), **known.get("encoder", {})},
        "head": head_of(shapes, known.get("head", {})),
    }
    if "image_size" in known:
        facts["image_size"] = known["image_size"]
    count = _side(shapes, "head.encoder_score.weight")
    if own is not None:
        written = build(own)
        return build(merge(written.model_dump(), _as(written, facts))), count
    inside = {
        name.removeprefix("backbone."): shape
        for name, shape in shapes.items()
        if name.startswith("backbone.")
    }
    facts["backbone"] = backbone_of(inside)
    nearest = min(PRESETS.values(), key=lambda preset: _distance(preset, _as(preset, facts), family))
    facts = _as(nearest, facts)
    base = nearest.model_dump()
    if nearest.backbone.name != facts["backbone"]["name"]:
        base = {**Config(model="custom").model_dump(), "backbone": facts["backbone"]}
    elif nearest.head.model_dump().get("layers") != facts["head"]["layers"]:
        facts["head"].setdefault("eval_layers", None)
    return build(merge(base, facts)), count


def _as(preset: Config, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts in a preset's numbers where these make the same shapes: rounding hides which were meant."""
    encoder, theirs = dict(facts["encoder"]), preset.encoder
    if encoder.get("fusion") == theirs.fusion:
        found = theirs.model_copy(update=encoder)
        if hidden_of(found) == hidden_of(theirs) and found.width == theirs.width:
            encoder["expansion"] = theirs.expansion
        if blocks_of(found) == blocks_of(theirs):
            encoder["depth"] = theirs.depth
    return {**facts, "encoder": encoder}


def _distance(preset: Config, facts: Mapping[str, Any], family: str) -> tuple[bool, int, bool]:
    """How little a preset fits: another backbone is worst, then each differing value, then the wrong family."""
    values = preset.model_dump()
    differing = sum(
        values[section].get(key, _ABSENT) != value
        for section in ("encoder", "head")
        for key, value in facts[section].items()
    )
    return preset.backbone.name != facts["backbone"]["name"], differing, not preset.model.startswith(family)
