"""Decoded images that stay in memory, and how worker processes see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.data.images import halve

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class KeptImages:
    """Images (H, W, C) uint8 by index, each also at half its size.

    Forked workers see the memory of the process that began them. To those that are spawned all of it would be copied,
    once for each: ``share`` moves it to where all of them see it.
    """

    def __init__(self) -> None:
        self._pairs: dict[int, Pair] = {}
        self._block: Tensor | None = None  # shared; the pairs are then views of it

    def __contains__(self, index: int) -> bool:
        return index in self._pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keeps an image."""
        self._pairs[index] = (image, halve(image))

    def get(self, index: int, *, half: bool = False) -> NDArray[np.uint8]:
        """A kept image, or half of it."""
        return self._pairs[index][half]

    def clear(self) -> None:
        """Drops all of them."""
        self._pairs.clear()
        self._block = None

    def share(self) -> None:
        """Moves all of them into one block of memory that a worker process sees, however it was started."""
        if self._block is not None or not self._pairs:
            return
        shapes = self._shapes()
        block = torch.empty(sum(map(_bytes, shapes.values())), dtype=torch.uint8)
        block.share_memory_()  # type: ignore[no-untyped-call]
        views = _views(block, shapes)
        for index, view in views.items():
            for place, image in zip(view, self._pairs.pop(index), strict=True):
                place[...] = image
        self._pairs, self._block = views, block

    def _shapes(self) -> dict[int, tuple[tuple[int, ...], ...]]:
        return {index: tuple(image.shape for image in pair) for index, pair in self._pairs.items()}

    def __getstate__(self) -> dict[str, Any]:
        if self._block is None:
            return {"pairs": self._pairs}
        return {"block": self._block, "shapes": self._shapes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._block = state.get("block")
        self._pairs = state["pairs"] if self._block is None else _views(self._block, state["shapes"])


def _bytes(shapes: tuple[tuple[int, ...], ...]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes)


def _views(block: Tensor, shapes: dict[int, tuple[tuple[int, ...], ...]]) -> dict[int, Pair]:
    """The images in a block of memory, one after the other."""
    flat, first, views = block.numpy(), 0, {}
    for index, (whole, half) in shapes.items():
        end = first + _bytes((whole,))
        last = end + _bytes((half,))
        views[index] = (flat[first:end].reshape(whole), flat[end:last].reshape(half))
        first = last
    return views
