"""Tensors that are described now and read later: only what a model needs leaves the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flexdetr.weights.container import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

ITEM_BYTES: Final = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "float32": 4, "int64": 8, "float64": 8,
}  # fmt: skip
_MAX_SIDE: Final = 1 << 40


@dataclass(frozen=True, eq=False)
class Deferred:
    """A tensor of a file.

    Attributes:
        shape: of the tensor.
        dtype: torch's name of its type ("float32").
        read: reads it; each call gives a new contiguous tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def strided(
    path: Path,
    locate: Callable[[], int],
    available: int,
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> Deferred:
    """A view of a storage that lies in a file.

    Args:
        path: the file.
        locate: gives the first byte of the storage when it is needed.
        available: items of the storage.
        dtype: of its items.
        offset: the view's first item.
        shape: of the view.
        stride: of the view, in items.

    Raises:
        WeightsError: if the view does not lie within the storage.
    """
    span = (
        1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if math.prod(shape)
        else 0
    )
    if (
        min((offset, *shape, *stride), default=0) < 0
        or max(shape, default=0) > _MAX_SIDE
        or offset + span > available
    ):
        raise WeightsError(f"damaged: a tensor of shape {list(shape)} does not lie within its storage")
    item = ITEM_BYTES[dtype]

    def read() -> Tensor:
        import torch

        flat = _read_items(path, locate() + offset * item, span, dtype)
        return torch.as_strided(flat, shape, stride).contiguous()

    return Deferred(shape, dtype, read)


def _read_items(path: Path, begin: int, count: int, dtype: str) -> Tensor:
    import torch

    flat = torch.empty(count, dtype=getattr(torch, dtype))
    raw = memoryview(flat.view(torch.uint8).numpy().data)
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        done = 0
        while done < len(raw):
            got = file.readinto(raw[done:])
            if not got:
                raise WeightsError(f"{path} is truncated: a tensor's bytes end early")
            done += got
    return flat


def from_bytes(
    raw: bytes | memoryview, dtype: str, shape: tuple[int, ...], *, column_major: bool = False
) -> Deferred:
    """An array whose bytes are at hand.

    Raises:
        WeightsError: if their number does not fit the shape.
    """
    if (
        min(shape, default=0) < 0
        or max(shape, default=0) > _MAX_SIDE
        or math.prod(shape) * ITEM_BYTES[dtype] != len(raw)
    ):
        raise WeightsError(f"damaged: {len(raw)} bytes for an array of shape {list(shape)} and type {dtype}")

    def read() -> Tensor:
        import torch

        if not raw:
            return torch.empty(shape, dtype=getattr(torch, dtype))
        flat = torch.frombuffer(bytearray(raw), dtype=getattr(torch, dtype))
        if column_major:
            return flat.view(shape[::-1]).permute(*range(len(shape) - 1, -1, -1)).contiguous()
        return flat.view(shape)

    return Deferred(shape, dtype, read)
