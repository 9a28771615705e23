"""Arrays and tensors of other libraries as pictures: (H, W, C) uint8, RGB unless told otherwise. No torch here."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from flexdetr.pixel_form import RGB, PixelForm

_RGB_CHANNELS: Final = (1, 3, 4)
# Rec. 601, as Pillow makes grey of colours.
_LUMA: Final = np.array([19595, 38470, 7471], np.uint32)


class ArrayLike(Protocol):
    """An array of numpy, or a tensor of torch, TensorFlow or JAX."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: ANN401


class ArrayError(ValueError):
    """An array that is no picture; the message says what one is."""


def is_array(value: object) -> bool:
    """Whether it is an ``ArrayLike``."""
    return isinstance(value, np.ndarray) or hasattr(value, "__array__")


def as_picture(value: Any, form: PixelForm = RGB) -> NDArray[np.uint8]:  # noqa: ANN401 - arrays of any library
    """A picture of an array or a tensor.

    Args:
        value: (H, W) grey, or (H, W, C) or (C, H, W) with 1, 3 or 4 channels, RGB or RGBA; for a form of other
            channels, with so many. Which of its sides are the channels is read from their number; where both could be,
            a tensor of torch is (C, H, W) and an array (H, W, C). uint8 is taken as it is, uint16 by its high byte,
            floats as 0 to 1 if none is above 1 and as 0 to 255 otherwise; other numbers, and others than these, where
            the form has a range of values. Transparency is laid over black.
        form: what the picture becomes.

    Returns:
        (H, W, ``form.channels``) uint8; ``value`` itself where it is such an array.

    Raises:
        ArrayError: if it is something else, or holds a number that is not finite.
    """
    tensor = hasattr(value, "detach")
    if tensor:
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
            value = value.float()
    array = np.asarray(value)
    ready = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == form.channels
    if ready and array.size and not tensor:
        return array
    pixels = _eight_bits(_channels_last(array, form, first=tensor), form)
    if form.photographic and pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        pixels = ((pixels[:, :, :3] * alpha + 127) // 255).astype(np.uint8)
    return _formed(pixels, form)


def stored_picture(array: NDArray[Any], form: PixelForm) -> NDArray[np.uint8]:
    """A picture of what a file of numbers holds, like .npy: four channels are four, and no RGBA.

    Args:
        array: (H, W), or (H, W, C) or (C, H, W): the shorter of the first and the last side are the channels.
        form: what the picture becomes.

    Returns:
        (H, W, ``form.channels``) uint8.

    Raises:
        ArrayError: if it has other channels, or is no picture.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not array.size:
        raise ArrayError(f"a picture is (H, W), (H, W, C) or (C, H, W); got shape {array.shape}")
    return formed(np.moveaxis(array, 0, 2) if array.shape[0] < array.shape[2] else array, form)


def formed(array: NDArray[Any], form: PixelForm) -> NDArray[np.uint8]:
    """A picture of channels that stand last.

    Args:
        array: (H, W, C) numbers.
        form: what the picture becomes: of grey and RGB either becomes the other.

    Returns:
        (H, W, ``form.channels``) uint8.

    Raises:
        ArrayError: if it has other channels.
    """
    count = array.shape[2]
    if count != form.channels and not (form.photographic and count in (1, 3)):
        raise ArrayError(_other_channels(count, form))
    return _formed(_eight_bits(array, form), form)


def shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of any channels as people are shown it: its first three as RGB, of fewer the first as grey.

    Args:
        image: (H, W, C) uint8.

    Returns:
        (H, W, 3) uint8; ``image`` itself where it is that.
    """
    if image.ndim != 3 or image.shape[2] == 3:
        return image
    return np.ascontiguousarray(
        image[:, :, :3] if image.shape[2] > 3 else np.repeat(image[:, :, :1], 3, axis=2)
    )


def _other_channels(count: int, form: PixelForm) -> str:
    return (
        f"it has {count} channel{'s'[: count - 1]}, and the model takes {form.takes}; data.channels={count} trains one "
        "that takes these"
    )


def _formed(pixels: NDArray[np.uint8], form: PixelForm) -> NDArray[np.uint8]:
    """Grey is repeated for RGB, and colours become their luma for grey."""
    if form.channels == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif form.channels == 1 and pixels.shape[2] == 3:
        pixels = ((pixels.astype(np.uint32) @ _LUMA + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    return np.ascontiguousarray(pixels)


def _channels_last(array: NDArray[Any], form: PixelForm, *, first: bool) -> NDArray[Any]:
    known = _RGB_CHANNELS if form.photographic else (form.channels,)
    if array.ndim == 2 and array.size and 1 in known:
        return array[:, :, None]
    if array.ndim == 4:
        raise ArrayError(f"{_wanted(form)}; got a batch of shape {array.shape}: give list(batch)")
    if array.ndim != 3 or not array.size:
        raise ArrayError(f"{_wanted(form)}; got shape {array.shape}")
    last_fits, first_fits = array.shape[2] in known, array.shape[0] in known
    if first_fits and (first or not last_fits):
        return np.moveaxis(array, 0, 2)
    if last_fits:
        return array
    raise ArrayError(f"{_wanted(form)}; got shape {array.shape}")


def _wanted(form: PixelForm) -> str:
    channels = "1, 3 (RGB) or 4 (RGBA) channels" if form.photographic else f"{form.channels} channels"
    grey = "(H, W), " if form.photographic else ""
    return f"a picture is {grey}(H, W, C) or (C, H, W) with {channels}, of uint8, uint16 or floats"


def _eight_bits(array: NDArray[Any], form: PixelForm) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:  # also what was brought to this form before, like a tile of a picture
        return array
    if form.value_range is not None:
        return _stretched(array, *form.value_range)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ArrayError(f"{_wanted(form)}; got {array.dtype}: state data.value_range for other numbers")
    darkest, brightest = _ends(array)
    if darkest < 0 or brightest > 255:
        raise ArrayError(
            f"floats are taken as 0 to 1, or as 0 to 255; got {darkest:g} to {brightest:g}: is the picture normalised? "
            "Give it as it was before, or train with data.value_range"
        )
    scale = 255.0 if brightest <= 1 else 1.0
    return np.rint(array * scale).astype(np.uint8)


def _stretched(array: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from ``low`` to ``high`` as 0 to 255; those outside are cut off."""
    if not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
        raise ArrayError(f"a picture holds numbers; got {array.dtype}")
    _ends(array)
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _ends(array: NDArray[Any]) -> tuple[float, float]:
    darkest, brightest = float(array.min()), float(array.max())
    if not (np.isfinite(darkest) and np.isfinite(brightest)):
        raise ArrayError("the array holds a number that is not finite")
    return darkest, brightest
