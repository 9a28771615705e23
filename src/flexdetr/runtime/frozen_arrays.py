"""Read-only copies of arrays, checked for the shape that a field of Detections has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def frozen_array(values: ArrayLike, dtype: type[np.generic], columns: int = 0) -> NDArray[Any]:
    """A read-only copy of the values, (N,) or (N, columns)."""
    array = np.array(values, dtype=dtype)
    if columns and array.size == 0:
        array = array.reshape(0, columns)
    if array.ndim != (2 if columns else 1) or (columns and array.shape[1] != columns):
        wanted = f"(N, {columns})" if columns else "(N,)"
        raise ValueError(f"a field of Detections has shape {array.shape}, expected {wanted}")
    array.setflags(write=False)
    return array


def frozen_masks(values: ArrayLike, size: tuple[int, int] | None) -> NDArray[np.bool_]:
    """A read-only copy of the masks, (N, height, width)."""
    array = np.array(values, dtype=np.bool_)
    if array.ndim != 3 or (size is not None and array.shape[1:] != tuple(size)):
        wanted = "(N, height, width)" if size is None else f"(N, {size[0]}, {size[1]})"
        raise ValueError(f"the masks of Detections have shape {array.shape}, expected {wanted}")
    array.setflags(write=False)
    return array


def frozen_data(name: str, values: ArrayLike) -> NDArray[Any]:
    """A read-only copy of an array of ``data``."""
    array = np.array(values)
    if array.ndim == 0:
        raise ValueError(f"data[{name!r}] of Detections must have one entry per object, got {values!r}")
    array.setflags(write=False)
    return array
