"""What a runtime is fed with, checked against what the artifact takes, so that a mistake is answered in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flexdetr.runtime.artifact import Input


class FeedError(ValueError):
    """Pictures of a shape or type that the artifact does not take."""


def check_feeds(images: object, sizes: object, takes: Input) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures and sizes as the graph takes them.

    Args:
        images: (B, H, W, C) uint8, C the artifact's channels.
        sizes: (B, 2) height and width of the original pictures; None takes those of ``images``.
        takes: the artifact's input.

    Returns:
        Contiguous ``images``, and ``sizes`` as int64.

    Raises:
        FeedError: if a shape or type does not fit.
    """
    pictures = np.asarray(images)
    height, width = takes.size
    free = takes.dynamic_size or takes.resize == "inside"
    channels = takes.channels
    wanted = f"(B, H, W, {channels})" if free else f"(B, {height}, {width}, {channels})"
    if pictures.dtype != np.uint8:
        raise FeedError(f"the artifact takes uint8 pictures (0 to 255); got {pictures.dtype}")
    if pictures.ndim != 4 or pictures.shape[-1] != channels or 0 in pictures.shape:
        hint = _hint(pictures, channels)
        raise FeedError(f"the artifact takes {takes.form.takes} {wanted}; got {_shown(pictures)}{hint}")
    if not free and pictures.shape[1:3] != (height, width):
        raise FeedError(f"the artifact takes pictures {wanted}; got {_shown(pictures)}: resize them first")
    if takes.dynamic_size and any(side % 32 for side in pictures.shape[1:3]):
        raise FeedError(f"the artifact takes pictures with sides divisible by 32; got {_shown(pictures)}")
    if min(pictures.shape[1:3]) < takes.smallest:
        raise FeedError(
            f"the artifact takes pictures with sides of at least {takes.smallest}; got {_shown(pictures)}"
        )
    return np.ascontiguousarray(pictures), _sizes(sizes, pictures)


def named_feeds(images: object, sizes: object, takes: Input) -> dict[str, NDArray[Any]]:
    """What ``check_feeds`` gives, by the names of the graph's inputs.

    Raises:
        FeedError: as ``check_feeds``.
    """
    pictures, original = check_feeds(images, sizes, takes)
    feeds: dict[str, NDArray[Any]] = {takes.name: pictures}
    if takes.sizes is not None:
        feeds[takes.sizes] = original
    return feeds


def _sizes(sizes: object, pictures: NDArray[Any]) -> NDArray[np.int64]:
    if sizes is None:
        return np.tile(np.array(pictures.shape[1:3], np.int64), (len(pictures), 1))
    given = np.asarray(sizes)
    if given.shape != (len(pictures), 2) or not np.issubdtype(given.dtype, np.integer):
        raise FeedError(
            f"sizes must be the (height, width) of each of the {len(pictures)} original pictures as integers, "
            f"{(len(pictures), 2)}; got {_shown(given)}"
        )
    if (given < 1).any():
        raise FeedError(f"sizes must be positive; got {given.tolist()}")
    return np.ascontiguousarray(given, np.int64)


def _shown(array: NDArray[Any]) -> str:
    return f"{tuple(array.shape)} {array.dtype}"


def _hint(pictures: NDArray[Any], channels: int) -> str:
    if pictures.ndim == 4 and pictures.shape[1] == channels:
        return "; colours come last: images.transpose(0, 2, 3, 1)"
    if pictures.ndim == 3 and pictures.shape[-1] == channels:
        return "; a single picture needs a batch axis: image[None]"
    return ""
