"""Arrays and tensors of other libraries as pictures: (H, W, 3) uint8 RGB. No torch here."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

_CHANNELS: Final = (1, 3, 4)
_WANTED: Final = (
    "a picture is (H, W), (H, W, C) or (C, H, W) with 1, 3 (RGB) or 4 (RGBA) channels, of uint8, "
    "uint16 or floats"
)


class ArrayLike(Protocol):
    """An array of numpy, or a tensor of torch, TensorFlow or JAX."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: ANN401


class ArrayError(ValueError):
    """An array that is no picture; the message says what one is."""


def is_array(value: object) -> bool:
    """Whether it is an ``ArrayLike``."""
    return isinstance(value, np.ndarray) or hasattr(value, "__array__")


def as_picture(value: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - arrays of any library
    """A picture of an array or a tensor.

    Args:
        value: (H, W) grey, or (H, W, C) or (C, H, W) with 1, 3 or 4 channels, RGB or RGBA. Which of its sides are the
            channels is read from their number; where both could be, a tensor of torch is (C, H, W) and an array
            (H, W, C). uint8 is taken as it is, uint16 by its high byte, floats as 0 to 1 if none is above 1 and as 0
            to 255 otherwise. Transparency is laid over black.

    Returns:
        (H, W, 3) uint8 RGB; ``value`` itself where it is such an array.

    Raises:
        ArrayError: if it is something else, or holds a number that is not finite.
    """
    tensor = hasattr(value, "detach")
    if tensor:
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
            value = value.float()
    array = np.asarray(value)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size and not tensor:
        return array
    pixels = _eight_bits(_channels_last(array, first=tensor))
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        pixels = ((pixels[:, :, :3] * alpha + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _channels_last(array: NDArray[Any], *, first: bool) -> NDArray[Any]:
    if array.ndim == 2 and array.size:
        return array[:, :, None]
    if array.ndim == 4:
        raise ArrayError(f"{_WANTED}; got a batch of shape {array.shape}: give list(batch)")
    if array.ndim != 3 or not array.size:
        raise ArrayError(f"{_WANTED}; got shape {array.shape}")
    last_fits, first_fits = array.shape[2] in _CHANNELS, array.shape[0] in _CHANNELS
    if first_fits and (first or not last_fits):
        return np.moveaxis(array, 0, 2)
    if last_fits:
        return array
    raise ArrayError(f"{_WANTED}; got shape {array.shape}")


def _eight_bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ArrayError(f"{_WANTED}; got {array.dtype}")
    darkest, brightest = float(array.min()), float(array.max())
    if not (np.isfinite(darkest) and np.isfinite(brightest)):
        raise ArrayError("the array holds a number that is not finite")
    if darkest < 0 or brightest > 255:
        raise ArrayError(
            f"floats are taken as 0 to 1, or as 0 to 255; got {darkest:g} to {brightest:g}: is the picture normalised? "
            "Give it as it was before"
        )
    scale = 255.0 if brightest <= 1 else 1.0
    return np.rint(array * scale).astype(np.uint8)
