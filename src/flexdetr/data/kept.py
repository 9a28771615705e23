"""Decoded images that stay in memory, and how worker processes see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexdetr.data.dataset import Record
from flexdetr.data.images import covering, halve
from flexdetr.data.record_pixels import read_record_reduced

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
# Images are kept at this many times the training size: crops still find detail, and decoding stays cheap.
_DETAIL: Final = 1.5


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


class RecordImages:
    """The decoded images of training records: read where they are not kept yet.

    ``image_size`` is the (height, width) of the training, which decides the size at which images are kept.
    """

    def __init__(self, records: Sequence[Record], image_size: tuple[int, int]) -> None:
        self.records = records
        self.at_least = (round(image_size[0] * _DETAIL), round(image_size[1] * _DETAIL))
        self.kept = KeptImages()

    def cache_bytes(self) -> int:
        """Memory that all images take at the size at which they are kept."""
        sizes = (covering((record.width, record.height), self.at_least) for record in self.records)
        channels = self.records[0].form.channels if self.records else 3
        return sum(channels * width * height * 5 // 4 for width, height in sizes)

    def keep(self, index: int) -> None:
        """Decodes an image at the size at which it is kept, and at half of it."""
        self.kept.add(index, read_record_reduced(self.records[index], self.at_least))

    def get(self, index: int, *, half: bool = False) -> NDArray[np.uint8]:
        """An image, or half of it."""
        if index not in self.kept:
            self.keep(index)
        return self.kept.get(index, half=half)


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
