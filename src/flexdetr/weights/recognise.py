"""What a checkpoint is: its dialect by its keys, EMA or raw weights, and what it says about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flexdetr.classes import Classes
from flexdetr.config import BackboneConfig, nearest
from flexdetr.weights import (
    deimv2,
    dfine,
    efficientnet_lite,
    lyuwenyu,
    paddle,
    timm_names,
    transformers,
    ultralytics,
)
from flexdetr.weights.backbone_names import rename_backbone
from flexdetr.weights.classifier_names import classifier_tensors
from flexdetr.weights.container import WeightsError, sniff
from flexdetr.weights.deferred import Deferred
from flexdetr.weights.header import deferred_tensors, read_header
from flexdetr.weights.pickled import read_pickled
from flexdetr.weights.pickled_arrays import as_tensor
from flexdetr.weights.renaming import Renamed, without_prefix
from flexdetr.weights.store import Metadata, current_names, is_ours, metadata_of
from flexdetr.weights.unpickle import Instance, Value

# How a source may be named by `convert --from`.
KINDS: Final = {
    "flexdetr": "FlexDETR",
    "paddle": "PaddleDetection RT-DETR",
    "lyuwenyu": "RT-DETR (lyuwenyu), PyTorch",
    "transformers": "transformers RT-DETR or D-FINE",
    "ultralytics": "Ultralytics RT-DETR",
    "backbone": "a backbone (PaddleClas, timm, D-FINE, lyuwenyu)",
    "dfine": "D-FINE",
    "deim": "DEIM",
    "deimv2": "DEIMv2",
}
# Where a state dict may be, best first: averaged weights before raw ones.
_BRANCHES: Final = (
    (("ema", "module"), "EMA"),
    (("ema",), "EMA"),
    (("state_dict_ema",), "EMA"),
    (("model_ema",), "EMA"),
    (("ema_state_dict",), "EMA"),
    (("model",), "raw"),
    (("state_dict",), "raw"),
    (("model_state_dict",), "raw"),
    (("module",), "raw"),
    ((), ""),
)
# transformers' lists of which tensor is in which shard.
_INDICES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass
class Source:
    """A recognised checkpoint.

    Attributes:
        path: the file or folder.
        kind: a key of ``KINDS``.
        title: what it is, for people.
        renamed: its tensors under our names.
        branch: "EMA", "raw", or empty if the file holds one set of weights only.
        known: values of the configuration that it states itself, by section.
        family: what the names of fitting presets start with.
        names: class names in the head's order, where it has them.
        classes: names and ids, where it has both.
        config: our own configuration, where FlexDETR wrote the file.
        norm_eps: batch-norm eps by our module path, where they are not 1e-5.
        metadata: of our own files.
        licence: where the file names one.
        address: of published weights.
        ancestors: of the weights, where the file tells them.
        notes: sentences for the report.
        classifier: the layers of a classifier behind a backbone, under our names; empty if it has none.
    """

    path: Path
    kind: str
    title: str
    renamed: Renamed
    branch: str = ""
    known: dict[str, Any] = field(default_factory=dict)
    family: str = "rtdetr_"
    names: list[str] | None = None
    classes: Classes | None = None
    config: dict[str, Any] | None = None
    norm_eps: dict[str, float] = field(default_factory=dict)
    metadata: Metadata | None = None
    licence: str = "unknown"
    address: str = ""
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classifier: dict[str, Deferred] = field(default_factory=dict)


def recognise(
    path: str | Path, *, kind: str | None = None, prefer: str = "EMA", backbone: BackboneConfig | None = None
) -> Source:
    """Read a checkpoint's structure and say what it is; tensors are read later.

    A folder is one that transformers saved. A file of another kind than ``kind``, a key of ``KINDS``, is
    refused; ``prefer`` is "EMA" or "raw" weights, where a training checkpoint holds both; a timm checkpoint is
    told by the ``backbone`` that the file is wanted for.

    Raises:
        WeightsError: if the file cannot be read, or is none that FlexDETR knows.
    """
    path = Path(path)
    if path.name in _INDICES:  # of shards beside it
        path = path.parent
    reader = _Reader(path, prefer, backbone, kind)
    if kind is not None and kind not in KINDS:
        raise WeightsError(nearest(kind, KINDS, "kind of checkpoint"))
    container = sniff(path)
    if container == "folder":
        source = reader.of_folder()
    elif container == "safetensors":
        source = reader.of_safetensors(path, path.parent)
    else:
        source = reader.of_pickle(path, read_pickled(path, container))
    if kind is not None and source.kind != kind:
        raise WeightsError(f"{path} is not {KINDS[kind]}: by its keys it is {source.title}")
    return source


@dataclass(frozen=True)
class _Reader:
    """From a container's content to a source."""

    path: Path
    prefer: str
    backbone: BackboneConfig | None
    kind: str | None = None

    def of_folder(self) -> Source:
        """A folder that transformers' ``save_pretrained`` wrote, in one file or in shards; or one of ours."""
        folder = self.path
        if (single := folder / "model.safetensors").is_file():
            return self.of_safetensors(single, folder)
        if (pickled := folder / "pytorch_model.bin").is_file():
            return self.of_pickle(pickled, read_pickled(pickled, sniff(pickled)))
        for index in _INDICES:
            if (folder / index).is_file():
                tensors: dict[str, Deferred] = {}
                for shard in _shards(folder / index):
                    tensors |= _shard_tensors(shard)
                return self.of_state(folder, tensors, "", folder)
        raise WeightsError(
            f"{folder} holds no model.safetensors, so it is not a checkpoint that transformers saved"
        )

    def of_safetensors(self, path: Path, folder: Path) -> Source:
        header = read_header(path)
        tensors = deferred_tensors(path, header)
        if is_ours(header):
            metadata = metadata_of(path, header)
            kind = "backbone" if metadata.part == "backbone" else "flexdetr"
            return Source(path, kind, KINDS["flexdetr"], Renamed(current_names(tensors)), metadata=metadata)
        return self.of_state(path, tensors, "", folder)

    def of_pickle(self, path: Path, content: Value) -> Source:
        module = _module_of(content, self.prefer)
        if module is not None:
            return self._of_module(path, content, *module)
        found = [
            (place, branch, tensors) for place, branch in _BRANCHES if (tensors := _state_at(content, place))
        ]
        if not found:
            what = f"a {type(content).__name__}" if not isinstance(content, Instance) else str(content.kind)
            raise WeightsError(f"{path} holds no state dict where checkpoints have one (it holds {what})")
        preferred = [row for row in found if row[1] == self.prefer] or found
        place, branch, tensors = preferred[0]
        source = self.of_state(path, tensors, branch if len(place) else "", path.parent)
        others = [other for other_place, other, _ in found if other != branch and other_place]
        if place and others:
            source.notes.append(f"it holds {branch} and {others[0]} weights; {branch} are taken")
        return source

    def _of_module(self, path: Path, content: Value, root: Instance, branch: str) -> Source:
        module = ultralytics.module_tensors(root)
        tensors = without_prefix(module.tensors)
        if not ultralytics.is_ultralytics(tensors):
            raise WeightsError(f"{path} holds a pickled {root.kind}, which is not an Ultralytics RT-DETR")
        source = self.of_state(path, tensors, branch, path.parent)
        renamed, place = ultralytics.rename_ultralytics(tensors)
        eps = {place(name.removeprefix("module.")): value for name, value in module.norm_eps.items()}
        source.renamed = renamed
        source.norm_eps = _common_eps({name: value for name, value in eps.items() if name is not None})
        source.notes = [note for note in source.notes if "eps" not in note]
        source.notes.append(f"batch norms keep the eps that the file states: {_eps_text(source.norm_eps)}")
        source.names = ultralytics.class_names(module.attributes.get("names"))
        if isinstance(content, dict):
            source.licence = str(content.get("license", source.licence)).split(" ")[0]
            arguments = content.get("train_args")
            if isinstance(arguments, dict) and isinstance(arguments.get("imgsz"), int):
                source.known["image_size"] = (arguments["imgsz"],) * 2
        return source

    def of_state(self, path: Path, tensors: Mapping[str, Deferred], branch: str, folder: Path) -> Source:
        """A source from a state dict, by its keys alone."""
        tensors = without_prefix(tensors)
        for kind, fits, build in _DIALECTS:
            if fits(tensors):
                try:
                    source = build(path, tensors, folder)
                except WeightsError as error:
                    raise WeightsError(f"{path} is {KINDS[kind]}, but {error}") from None
                break
        else:
            source = self._of_timm(path, tensors)
        source.branch = branch
        if source.kind in _UNTOLD and dfine.is_dfine(tensors):
            _tell_apart(source, self.kind, self.path)
        if any(tensor.dtype in ("float16", "bfloat16") for tensor in tensors.values()):
            source.notes.append("its weights are in half precision and become float32")
        return source

    def _of_timm(self, path: Path, tensors: Mapping[str, Deferred]) -> Source:
        if efficientnet_lite.is_lite(tensors):
            try:
                tensors = efficientnet_lite.as_timm(tensors)
            except WeightsError as error:
                raise WeightsError(f"{path} cannot be used: {error}") from None
        name = timm_names.shipped_name(tensors)
        wanted = BackboneConfig(name=name) if name is not None else self.backbone
        renamed = timm_names.rename_timm(tensors, wanted) if wanted is not None else None
        if wanted is None or renamed is None:
            some = ", ".join(list(tensors)[:3])
            raise WeightsError(
                f"{path} is not a detector or backbone that FlexDETR knows (its tensors are called {some} ...)"
            )
        renamed.state = {f"backbone.{name}": tensor for name, tensor in renamed.state.items()}
        return Source(
            path,
            "backbone",
            "a backbone of timm",
            renamed,
            known={"backbone": wanted.model_dump()},
            classifier=classifier_tensors(tensors),
        )


def _shards(index: Path) -> list[Path]:
    """The files of a checkpoint in shards, all beside their index."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [index.parent / Path(str(name)).name for name in names]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{index} cannot be read as an index of shards ({type(error).__name__})"
        ) from error


def _shard_tensors(shard: Path) -> dict[str, Deferred]:
    if (container := sniff(shard)) == "safetensors":
        return deferred_tensors(shard, read_header(shard))
    return _state_at(read_pickled(shard, container), ())


def _state_at(content: Value, place: tuple[str, ...]) -> dict[str, Deferred]:
    """The tensors at a place; empty if there is no state dict."""
    for key in place:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        return {}
    return {
        name: tensor
        for name, value in content.items()
        if isinstance(name, str) and name != paddle.NAME_TABLE and (tensor := as_tensor(value)) is not None
    }


def _module_of(content: Value, prefer: str) -> tuple[Instance, str] | None:
    """A pickled module and its branch, where the file holds one instead of a state dict."""
    if isinstance(content, Instance):
        return content, ""
    if not isinstance(content, dict):
        return None
    order = (("ema", "EMA"), ("model", "raw")) if prefer == "EMA" else (("model", "raw"), ("ema", "EMA"))
    for key, branch in order:
        if isinstance(content.get(key), Instance):
            return content[key], branch if isinstance(content.get("ema"), Instance) else ""
    return None


def _common_eps(eps: Mapping[str, float]) -> dict[str, float]:
    """Nothing where all are 1e-5, one entry where all are the same, else the odd ones by path."""
    values = set(eps.values())
    if len(values) == 1:
        return {} if values == {1e-5} else {"": values.pop()}
    return {name: value for name, value in eps.items() if value != 1e-5}


def _eps_text(eps: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(eps.values()))) or "1e-05"


def _starts(*prefixes: str) -> Callable[[Mapping[str, Deferred]], bool]:
    return lambda tensors: all(any(name.startswith(prefix) for name in tensors) for prefix in prefixes)


# Projects whose files nothing inside them tells apart.
_UNTOLD: Final = ("dfine", "deim")


def _tell_apart(source: Source, asked: str | None, path: Path) -> None:
    """Take a detector for D-FINE's or DEIM's: as the person says, else as it says itself, else as its name says.

    Raises:
        WeightsError: if nothing tells.
    """
    head = source.known["head"]
    if "activation" in head:
        return
    name = path.name if path.is_dir() else path.stem
    project = asked if asked in _UNTOLD else dfine.project_of(name)
    if project is None:
        raise WeightsError(
            f"{path} is a detector of D-FINE or of DEIM, which differ in their activations only, and neither the "
            f"file nor its name tells which: `flexdetr convert {path.name} --from dfine` or `--from deim` says it "
            "(in Python load(..., source=...))"
        )
    head["activation"] = dfine.activation_of(project, name)
    source.kind, source.title, source.family = project, KINDS[project], f"{project}_"
    other = next(one for one in _UNTOLD if one != project)
    why = (
        "as was asked for"
        if asked in _UNTOLD
        else f"as its name says (--from {other} takes it for the other)"
    )
    source.notes.append(
        f"taken for {KINDS[project]}, {why}, so activations are {head['activation']}; nothing in the file shows it"
    )


def _dfine(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    source = Source(path, "dfine", KINDS["dfine"], dfine.rename_dfine(tensors), family="dfine_")
    source.known["head"] = dfine.head_values(tensors)
    if dfine.is_rtdetrv4(tensors):
        source.known["head"]["activation"] = "silu"
        source.kind, source.title, source.family = "deim", "RT-DETRv4 (DEIM's graph)", "deim_"
    return source


def _deimv2(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    source = Source(path, "deimv2", KINDS["deimv2"], deimv2.rename_deimv2(tensors), family="deimv2_")
    source.known = deimv2.known_values(tensors)
    source.notes.append(
        "the file does not show how many queries it was trained with; the published number is taken (head.queries)"
    )
    return source


def _flexdetr(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    return Source(path, "flexdetr", "FlexDETR (a bare state dict)", Renamed(current_names(tensors)))


def _paddle(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    return Source(path, "paddle", KINDS["paddle"], paddle.rename_paddle(tensors))


def _lyuwenyu(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    source = Source(path, "lyuwenyu", KINDS["lyuwenyu"], lyuwenyu.rename_detector(tensors))
    points = lyuwenyu.points_per_level(tensors)
    if points is None and "decoder.enc_output.proj.weight" not in tensors:
        return source
    source.family, source.title = "rtdetrv2_", "RT-DETRv2 (lyuwenyu), PyTorch"
    if "decoder.query_pos_head.layers.2.weight" in tensors:
        source.kind, source.family, source.title = "deim", "deim_rtdetrv2_", "DEIM's RT-DETRv2"
    if points is not None:
        source.known["head"] = {"points": points}
    if re.search(r"(^|[_.-])dsp\d?([_.-]|$)", path.stem):
        # Published files of this kind are told apart by their names only.
        source.known.setdefault("head", {})["sampling"] = "discrete"
        source.notes.append(
            "its name says dsp, so sampling is discrete; nothing in the file shows it (head.sampling changes it)"
        )
    else:
        source.notes.append(
            "the file does not show how it samples; head.sampling=discrete where it is a dsp model"
        )
    return source


def _transformers(path: Path, tensors: Mapping[str, Deferred], folder: Path) -> Source:
    config = transformers.read_config(folder)
    transformers.refuse_foreign(config)
    source = Source(path, "transformers", KINDS["transformers"], transformers.rename_transformers(tensors))
    second = any(name.endswith("encoder_attn.n_points_scale") for name in tensors)
    if any(name.startswith("model.decoder.pre_bbox_head.") for name in tensors):
        source.family, source.title = "dfine_", "transformers D-FINE"
    elif second or config.get("model_type") == "rt_detr_v2":
        source.family, source.title = "rtdetrv2_", "transformers RT-DETRv2"
    else:
        source.title = "transformers RT-DETR"
    if config:
        source.known = transformers.known_values(config, folder)
        source.names = transformers.class_names(config)
        source.config, source.classes = transformers.own_entry(config)
        source.norm_eps = transformers.norm_eps(config)
        source.licence, source.ancestors = transformers.ancestry(config)
    else:
        source.notes.append(
            "there is no config.json beside it; published values are taken for what shapes do not show"
        )
        scales = [
            tensor
            for name, tensor in tensors.items()
            if name.endswith(
                ("layers.0.encoder_attn.n_points_scale", "layers.0.encoder_attn.num_points_scale")
            )
        ]
        source.known["head"] = {"eval_layers": None}
        if source.family == "dfine_":
            source.known["head"] |= {"activation": "relu", **dfine.constants_of(tensors, "model.decoder.")}
        if scales:
            source.known["head"]["points"] = lyuwenyu.points_of_scale(scales[0])
    return source


def _ultralytics(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    renamed, _place = ultralytics.rename_ultralytics(tensors)
    source = Source(path, "ultralytics", KINDS["ultralytics"], renamed, norm_eps={"": ultralytics.YAML_EPS})
    source.notes.append(
        f"a bare state dict does not show its batch-norm eps; {ultralytics.YAML_EPS:g} is taken, "
        "as in every model that Ultralytics builds"
    )
    return source


def _backbone(path: Path, tensors: Mapping[str, Deferred], _: Path) -> Source:
    if tensors and all(name.startswith("backbone.") for name in tensors):
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    from_paddle = any(name.endswith("._mean") for name in tensors)
    tensors = paddle.untranspose(tensors) if from_paddle else tensors
    renamed = rename_backbone(tensors)
    if renamed is None:
        raise WeightsError("its family is unknown")
    renamed.state = {f"backbone.{name}": tensor for name, tensor in renamed.state.items()}
    source = Source(path, "backbone", "a backbone", renamed, classifier=classifier_tensors(tensors))
    if from_paddle and "backbone.stem.stem1.lab.scale" in renamed.state:
        # See the stem's pool in model/backbones/hgnetv2.py: these weights were trained with Paddle's padding.
        source.known["backbone"] = {"options": {"pool_padding": "paddle"}}
    return source


def _is_bare(tensors: Mapping[str, Deferred]) -> bool:
    return _starts("encoder.", "head.encoder_score.", "head.query_position.")(current_names(tensors))


def _is_backbone(tensors: Mapping[str, Deferred]) -> bool:
    inside = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    return rename_backbone(inside) is not None


_Build = Callable[[Path, Mapping[str, Deferred], Path], Source]
_DIALECTS: Final[tuple[tuple[str, Callable[[Mapping[str, Deferred]], bool], _Build], ...]] = (
    ("deimv2", deimv2.is_deimv2, _deimv2),
    ("dfine", dfine.is_dfine, _dfine),
    ("flexdetr", _is_bare, _flexdetr),
    ("paddle", _starts("backbone.", "neck.", "transformer."), _paddle),
    ("lyuwenyu", _starts("backbone.", "encoder.", "decoder.enc_output."), _lyuwenyu),
    ("transformers", _starts("model.backbone.model.", "model.encoder_input_proj."), _transformers),
    ("ultralytics", ultralytics.is_ultralytics, _ultralytics),
    ("backbone", _is_backbone, _backbone),
)
