"""RT-DETR L and X of Ultralytics: numbered layers, told apart by what is in them, in the order of the published YAML.

Their ``.pt`` files pickle whole modules. ``module_tensors`` takes those apart as data; no class of theirs is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.lyuwenyu import rename_detector
from flexdetr.weights.pickled import attributes
from flexdetr.weights.pickled_arrays import as_tensor
from flexdetr.weights.renaming import Renamed, norm_names
from flexdetr.weights.unpickle import Instance

# Ultralytics gives every batch norm of a model that it builds from a YAML this eps; a bare state dict does not show it.
YAML_EPS: Final = 1e-3
_MAX_MODULES: Final = 100_000


@dataclass
class Module:
    """A pickled module, as data.

    ``tensors`` are parameters and persistent buffers by state-dict name, ``norm_eps`` those of batch norms by
    module path, ``attributes`` the top module's plain ones (names, yaml, args ...).
    """

    tensors: dict[str, Deferred] = field(default_factory=dict)
    norm_eps: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def module_tensors(root: Instance) -> Module:
    """The state dict of a pickled ``torch.nn.Module``.

    Raises:
        WeightsError: if the object is no module, or contains itself.
    """
    if not isinstance(attributes(root).get("_modules"), dict):
        raise WeightsError(f"it holds an object of class {root.kind}, which is not a torch module")
    done = Module(attributes=attributes(root))
    pending, seen = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        seen += 1
        if seen > _MAX_MODULES:
            raise WeightsError("damaged: its modules contain each other")
        inside = attributes(module)
        hidden = inside.get("_non_persistent_buffers_set") or ()
        for table in ("_parameters", "_buffers"):
            for name, value in (inside.get(table) or {}).items():
                if (tensor := as_tensor(value)) is not None and name not in hidden:
                    done.tensors[f"{prefix}{name}"] = tensor
        if "BatchNorm" in module.kind.name and isinstance(inside.get("eps"), int | float):
            done.norm_eps[prefix.removesuffix(".")] = float(inside["eps"])
        for name, child in (inside.get("_modules") or {}).items():
            if isinstance(child, Instance):
                pending.append((f"{prefix}{name}.", child))
    return done


_LAYER: Final = re.compile(r"(?:model\.)?(\d+)\.(.*)", re.DOTALL)


def is_ultralytics(names: Mapping[str, object]) -> bool:
    """Whether a state dict is a numbered RT-DETR: its last layer is the decoder, its first the HGNet stem."""
    inside = {match[2] for name in names if (match := _LAYER.fullmatch(name))}
    return {"enc_output.0.weight", "dec_score_head.0.weight"} <= inside


def rename_ultralytics(tensors: Mapping[str, Deferred]) -> tuple[Renamed, Callable[[str], str | None]]:
    """A detector under our names.

    Returns:
        The tensors, and a function from a module path of theirs to ours (for the eps of batch norms).

    Raises:
        WeightsError: if the layers are not those of the published L or X.
    """
    layers: dict[int, dict[str, Deferred]] = {}
    strange = []
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            strange.append(name)
        else:
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
    prefixes = dict(_places([(number, _kind(layer)) for number, layer in sorted(layers.items())]))
    moved: dict[str, Deferred] = {}
    for number, layer in layers.items():
        moved |= norm_names({_inner(prefixes[number], name): one for name, one in layer.items()})
    renamed = rename_detector(moved)
    renamed.unknown.extend(strange)
    ours = {id(tensor): name for name, tensor in renamed.state.items()}
    theirs = {name: ours.get(id(tensor)) for name, tensor in tensors.items()}

    def module_path(path: str) -> str | None:
        name = theirs.get(f"{path}.running_var")
        return name.removesuffix(".running_var") if name else None

    return renamed, module_path


def _kind(layer: Mapping[str, Deferred]) -> str:
    """What a numbered layer is, by its tensors."""
    marks = {
        "stem1.conv.weight": "stem",
        "ec.conv.weight": "block",
        "ma.in_proj_weight": "attention",
        "cv1.conv.weight": "fusion",
        "enc_output.0.weight": "head",
    }
    for mark, kind in marks.items():
        if mark in layer:
            return kind
    kernel = layer["conv.weight"].shape if "conv.weight" in layer else ()
    if len(kernel) != 4:
        return "unknown"
    if kernel[1] == 1:
        return "depthwise"
    return "pointwise" if kernel[-1] == 1 else "strided"


# What follows the backbone, in the order of rtdetr-l.yaml and rtdetr-x.yaml.
_TAIL: Final = (
    ("pointwise", "encoder.input_proj.2"),
    ("attention", "encoder.encoder.0.layers.0"),
    ("pointwise", "encoder.lateral_convs.0"),
    ("pointwise", "encoder.input_proj.1"),
    ("fusion", "encoder.fpn_blocks.0"),
    ("pointwise", "encoder.lateral_convs.1"),
    ("pointwise", "encoder.input_proj.0"),
    ("fusion", "encoder.fpn_blocks.1"),
    ("strided", "encoder.downsample_convs.0"),
    ("fusion", "encoder.pan_blocks.0"),
    ("strided", "encoder.downsample_convs.1"),
    ("fusion", "encoder.pan_blocks.1"),
    ("head", "decoder"),
)


def _places(kinds: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(number of a layer, its place in lyuwenyu's names)."""
    stage, block, tail = 0, 0, 0
    for number, kind in kinds:
        if kind == "stem" and number == kinds[0][0]:
            yield number, "backbone.stem"
        elif kind == "depthwise" and not tail:
            stage, block = stage + 1, 0
            yield number, f"backbone.stages.{stage}.downsample"
        elif kind == "block" and not tail:
            yield number, f"backbone.stages.{stage}.blocks.{block}"
            block += 1
        elif tail < len(_TAIL) and _TAIL[tail][0] == kind:
            yield number, _TAIL[tail][1]
            tail += 1
        else:
            raise WeightsError(
                f"layer {number} ({kind}) is not where the published RT-DETR L and X have such a layer"
            )
    if tail < len(_TAIL):
        raise WeightsError("its layers end before the decoder of the published RT-DETR L and X")


_INNER: Final = (
    (re.compile(r"backbone\.stages\.\d+\.blocks\.\d+\.m\."), ".m.", ".layers."),
    (re.compile(r"backbone\.stages\.\d+\.blocks\.\d+\.sc\."), ".sc.", ".aggregation_squeeze_conv."),
    (re.compile(r"backbone\.stages\.\d+\.blocks\.\d+\.ec\."), ".ec.", ".aggregation_excitation_conv."),
    (re.compile(r"encoder\.(?:fpn|pan)_blocks\.\d+\.cv[123]\."), ".cv", ".conv"),
    (re.compile(r"encoder\.(?:fpn|pan)_blocks\.\d+\.m\."), ".m.", ".bottlenecks."),
    (re.compile(r"encoder\.encoder\..*\.ma\."), ".ma.", ".self_attn."),
    (re.compile(r"encoder\.encoder\..*\.fc[12]\."), ".fc", ".linear"),
    (re.compile(r"decoder\.layers\."), "decoder.layers.", "decoder.decoder.layers."),
)


def _inner(place: str, name: str) -> str:
    """A tensor's name inside its layer, as lyuwenyu names it."""
    whole = f"{place}.{name}"
    for pattern, old, new in _INNER:
        if pattern.match(whole):
            return whole.replace(old, new, 1)
    return whole


def class_names(names: object) -> list[str] | None:
    """Ultralytics' ``names``, a dictionary by index or a list."""
    if isinstance(names, dict) and names and all(isinstance(key, int) for key in names):
        names = [names[key] for key in sorted(names)]
    return [str(name) for name in names] if isinstance(names, list) and names else None
