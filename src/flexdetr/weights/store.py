"""Our own checkpoint format: a safetensors file whose header carries everything needed to use it.

The header's metadata holds one entry, ``flexdetr``: a JSON document with the fields of ``Metadata``, read with
no torch. Fields that this version does not know are kept and written back, so that a file survives a round trip
through an older FlexDETR.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flexdetr.files import replacing
from flexdetr.weights.container import WeightsError
from flexdetr.weights.header import Header, deferred_tensors, is_int, read_header

if TYPE_CHECKING:
    from torch import Tensor

    from flexdetr.classes import Classes
    from flexdetr.config import Config

FORMAT_VERSION = 1
_ENTRY = "flexdetr"
V = TypeVar("V")


@dataclass(frozen=True)
class Metadata:
    """What travels with the weights.

    Attributes:
        model: the preset that the configuration started from; a backbone's name for a backbone.
        part: "detector" or "backbone".
        config: the whole resolved configuration, as ``Config.model_dump(mode="json")`` gives it.
        classes: ``[{"id": data set's own id, "name": name}, ...]`` in the order of the head's rows.
        image_size: (height, width) that the network was trained for.
        normalisation: what is done to uint8 RGB first: ``{"scale": 1/255, "mean": [...], "std": [...]}``.
        norm_eps: batch-norm eps that differ from 1e-5, by module path; the empty path stands for every one.
        training: a summary of the run (epochs, steps, metrics, data set, seed ...).
        licence: licence of these weights, as an SPDX name where there is one.
        provenance: every ancestor, nearest first: ``{"source", "file", "sha256", "licence", ...}``.
        thresholds: score thresholds, by class name, or "default" for all.
        format_version: of the file; written by newer versions of FlexDETR it may be larger than ours.
        extra: fields that this version does not know, kept as they are.
    """

    model: str = "custom"
    part: str = "detector"
    config: dict[str, Any] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    image_size: tuple[int, int] = (640, 640)
    normalisation: dict[str, Any] = field(
        default_factory=lambda: {"scale": 1 / 255, "mean": [0.0] * 3, "std": [1.0] * 3}
    )
    norm_eps: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    provenance: list[dict[str, Any]] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: Config,
        classes: Classes,
        mean: Sequence[float],
        std: Sequence[float],
        **more: Any,  # noqa: ANN401 - further fields
    ) -> Metadata:
        """What follows from a detector's configuration, its classes, and the mean and deviation of its pictures."""
        return cls(
            model=config.model,
            config=config.model_dump(mode="json"),
            classes=classes.to_json(),
            image_size=config.image_size,
            normalisation={"scale": 1 / 255, "mean": list(mean), "std": list(std)},
            **more,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data, with the unknown ones of ``extra`` beside them."""
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        return {**self.extra, **known, "image_size": list(self.image_size)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metadata:
        """The inverse of ``to_json``.

        Raises:
            WeightsError: if a known field has another type than it should have.
        """
        known = {item.name for item in fields(cls)} - {"extra"}
        default = cls()
        values: dict[str, Any] = {}
        for name in known & content.keys():
            value = content[name]
            if name == "image_size":
                if not (
                    isinstance(value, list | tuple) and len(value) == 2 and all(is_int(n) for n in value)
                ):
                    raise WeightsError(f"metadata field image_size must be [height, width]; got {value!r}")
                value = (int(value[0]), int(value[1]))
            elif not isinstance(value, type(getattr(default, name))) or isinstance(value, bool):
                wanted = type(getattr(default, name)).__name__
                raise WeightsError(f"metadata field {name} must be a {wanted}; got {type(value).__name__}")
            _check_entries(name, value)
            values[name] = current_names(value) if name == "norm_eps" else value
        return cls(**values, extra={name: value for name, value in content.items() if name not in known})


def _check_entries(name: str, value: object) -> None:
    """What is inside of the metadata's lists and tables."""
    if name in ("classes", "provenance"):
        fits = all(isinstance(row, dict) for row in cast("list[object]", value))
        wanted = "a list of mappings"
    elif name in ("norm_eps", "thresholds"):
        numbers = cast("dict[str, object]", value).values()
        fits = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        wanted = "a mapping of numbers"
    else:
        return
    if not fits:
        raise WeightsError(f"metadata field {name} must be {wanted}; got {value!r:.200}")


def read_metadata(path: str | Path) -> Metadata:
    """The metadata of one of our files; torch is not needed.

    Raises:
        WeightsError: if the file cannot be read, or was not written by FlexDETR.
    """
    return metadata_of(path, read_header(path))


def current_names(values: Mapping[str, V]) -> dict[str, V]:
    """Module paths as they are today: before heads were parts, ``head`` was ``decoder``."""
    return {re.sub(r"^decoder(?=\.|$)", "head", name): value for name, value in values.items()}


def is_ours(header: Header) -> bool:
    """Whether FlexDETR wrote the file."""
    return _ENTRY in header.metadata


def metadata_of(path: str | Path, header: Header) -> Metadata:
    """The metadata inside a header that was read from ``path`` already.

    Raises:
        WeightsError: if FlexDETR did not write it, or its content is damaged.
    """
    if not is_ours(header):
        raise WeightsError(f"{path} is a safetensors file of another program; `flexdetr convert` reads it")
    try:
        content = json.loads(header.metadata[_ENTRY])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: its FlexDETR metadata is not JSON") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is damaged: its FlexDETR metadata is not a mapping")
    try:
        return Metadata.from_json(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def save(path: str | Path, state: Mapping[str, Tensor], metadata: Metadata) -> Path:
    """Write a checkpoint so that the file is, at every moment, either the former one or the whole new one.

    Tensors are stored contiguous and on their own (two names of one tensor become two copies).

    Raises:
        WeightsError: if the disk is full or the place cannot be written; a former file is left as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    text = json.dumps(metadata.to_json())
    try:
        with replacing(path) as temporary:
            save_file(_separate(state), temporary, metadata={"format": "pt", _ENTRY: text})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {path}: {error}; a former file there is unchanged") from error
    return path


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none sharing memory with another."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            tensor = tensor.clone()
        seen.add(place)
        separate[name] = tensor
    return separate


def load(path: str | Path) -> tuple[dict[str, Tensor], Metadata]:
    """Tensors and metadata of one of our files.

    Raises:
        WeightsError: if the file is damaged, truncated, or not ours.
    """
    header = read_header(path)
    metadata = metadata_of(path, header)
    tensors = current_names(deferred_tensors(path, header))
    return {name: tensor.read() for name, tensor in tensors.items()}, metadata
