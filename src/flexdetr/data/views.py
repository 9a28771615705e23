"""Pictures as people are shown them, also those that no RGB detector takes. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.images import ImageError, covering, read_reduced
from flexdetr.runtime.arrays import shown
from flexdetr.runtime.process import resize_planes
from flexdetr.runtime.stored_arrays import StoredArrayError, read_array, stores_numbers

# Percentiles that are shown black and white: a few values beyond them are mostly faults of the sensor.
_BLACK, _WHITE = 1, 99


def read_view(path: Path, at_least: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """A picture no larger than needed, and what of it is shown where it is no RGB or grey picture.

    Of a .npy or TIFF file that ``images.read_reduced`` refuses, as for its number of channels or the range of its
    values, the first three channels are shown as red, green and blue, of fewer the first as grey.

    Args:
        path: the file.
        at_least: (height, width), as ``images.read_reduced`` takes it.

    Returns:
        (H, W, 3) uint8, and what is shown, like "channels 1 to 3 of 5 as RGB, 12 to 4021 as black to white";
        nothing where the picture is read as any other.

    Raises:
        ImageError: if the file cannot be read.
    """
    try:
        return read_reduced(path, at_least), ""
    except ImageError:
        stored = _stored(path)
        if stored is None:
            raise
    count = stored.shape[2]
    seen = stored[:, :, : 3 if count >= 3 else 1]
    told = f"channels 1 to 3 of {count} as RGB" if count >= 3 else f"channel 1 of {count} as grey"
    if seen.dtype != np.uint8:
        seen, black, white = _stretched(seen)
        told += f", {black:g} to {white:g} as black to white"
    size = covering((seen.shape[1], seen.shape[0]), at_least)
    return resize_planes(shown(seen), size, reducing_gap=2.0), told


def _stored(path: Path) -> NDArray[Any] | None:
    """(H, W, C) numbers of a file; None if it holds no picture of numbers."""
    if not stores_numbers(path):
        return None
    try:
        array = read_array(path)
    except (OSError, StoredArrayError):
        return None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not array.size or array.dtype.kind not in "buif":
        return None
    return np.moveaxis(array, 0, 2) if array.shape[0] < array.shape[2] else array


def _stretched(values: NDArray[Any]) -> tuple[NDArray[np.uint8], float, float]:
    """The values as 0 to 255, those that are no number black, and which of them are black and white."""
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    black, white = np.percentile(finite, (_BLACK, _WHITE)).tolist() if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=black) - black) * (255 / (white - black if white > black else 1))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8), black, white
