"""The header of a safetensors file, read and checked with neither torch nor the safetensors library."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from flexdetr.weights.container import WeightsError, sniff
from flexdetr.weights.deferred import ITEM_BYTES, Deferred, strided

_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library itself
_MAX_AXES: Final = 64  # those of numpy
_TYPES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "F32": "float32", "I64": "int64", "F64": "float64",
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor's description.

    ``dtype`` is in safetensors' spelling ("F32"), ``begin`` the tensor's first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class Header:
    """A safetensors header: tensor descriptions by name, and the free-form metadata."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Parse and check a safetensors header without torch, safetensors or the tensor data.

    Raises:
        WeightsError: if the file is no safetensors file, truncated, or inconsistent.
    """
    path = Path(path)
    if (kind := sniff(path)) != "safetensors":
        raise WeightsError(f"{path} is a {kind}, not a safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise WeightsError(f"{path} is damaged: its header claims {length} bytes")
        if length > size - 8:
            raise WeightsError(f"{path} is truncated inside its header ({size} bytes)")
        raw = file.read(length)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: its header is not JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is damaged: its header is not a mapping")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise WeightsError(f"{path} is damaged: its metadata is not a mapping of texts")
    return Header(_check_layout(path, content, size, 8 + length), metadata)


def _check_layout(path: Path, content: dict[str, Any], size: int, start: int) -> dict[str, Entry]:
    """Every tensor's place, checked: size equal to the shape's, inside the file, none overlapping."""
    tensors, spans = {}, []
    for name, entry in content.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            fits = (
                len(shape) <= _MAX_AXES
                and all(is_int(n) and n >= 0 for n in (*shape, begin, end))
                and begin <= end
            )
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise WeightsError(
                f"{path} is damaged: the header's entry for {name!r} is not a tensor description"
            )
        known = _TYPES.get(dtype) if isinstance(dtype, str) else None
        if known is not None and math.prod(shape) * ITEM_BYTES[known] != end - begin:
            raise WeightsError(f"{path} is damaged: {name!r} of shape {list(shape)} has {end - begin} bytes")
        tensors[name] = Entry(str(dtype), shape, start + begin)
        spans.append((begin, end))
    spans.sort()
    if any(first[1] > second[0] for first, second in itertools.pairwise(spans)):
        raise WeightsError(f"{path} is damaged: tensors overlap")
    needed = max((end for _, end in spans), default=0)
    if needed > size - start:
        raise WeightsError(f"{path} is truncated: {size - start} of {needed} bytes of tensors are there")
    return tensors


def deferred_tensors(path: str | Path, header: Header) -> dict[str, Deferred]:
    """The tensors of a safetensors file, to be read when they are needed.

    Raises:
        WeightsError: if one has a type that FlexDETR does not read.
    """
    path, found = Path(path), {}
    for name, (dtype, shape, begin) in header.tensors.items():
        if dtype not in _TYPES:
            raise WeightsError(f"{path} holds {name!r} of type {dtype}, which FlexDETR does not read")
        found[name] = strided(
            path, _constant(begin), math.prod(shape), _TYPES[dtype], 0, shape, _steps(shape)
        )
    return found


def _constant(begin: int) -> Callable[[], int]:
    return lambda: begin


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_int(value: object) -> bool:
    """An integer that is no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)
