"""The user's own transforms of an image and its boxes, in the manner of torchvision's v2."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from flexdetr.config import ConfigError
from flexdetr.data.transforms import Sample, clip
from flexdetr.foreign_code import imported

_LEAST_SIDE = 1.0


class TransformError(ValueError):
    """The user's transforms failed or gave something else than an image with its boxes; the message names them."""


class UserTransforms:
    """What ``data.transforms`` names, made once in each process.

    It is called as torchvision's v2 transforms are, with an image and a dictionary of boxes and labels, and gives both
    back. Boxes are a ``BoundingBoxes``, so that every v2 transform keeps them right; those that it moved outside of the
    image are dropped here.

    The factory in ``my_pkg.my_mod:factory`` takes no argument and returns the transforms.

    Raises:
        ConfigError: if it cannot be imported, or makes nothing that can be called.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self._made = _make(reference)

    def __call__(self, sample: Sample, rng: np.random.Generator, name: str) -> Sample:
        """The transformed sample, whatever its size now is.

        torch's, numpy's and Python's global random numbers are seeded by ``rng``, and put back afterwards;
        ``name`` is for messages.

        Raises:
            TransformError: if the transforms raise, or what they return does not fit.
        """
        from torchvision import tv_tensors

        height, width = sample.size
        image = tv_tensors.Image(
            torch.from_numpy(sample.image).permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        )
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(sample.boxes_xyxy.copy()), format="XYXY", canvas_size=(height, width)
        )
        given = {"boxes": boxes, "labels": torch.from_numpy(sample.labels.copy())}
        with _seeded(int(rng.integers(2**31))):
            try:
                answer = self._made(image, given)
            except Exception as error:
                raise TransformError(
                    f"data.transforms={self.reference} failed on {name}: {type(error).__name__}: {error}"
                ) from error
        return self._checked(answer, sample.image.shape[2])

    def _checked(self, answer: Any, channels: int) -> Sample:  # noqa: ANN401 - whatever the user's code returns
        from torchvision import tv_tensors

        try:
            image, target = answer
            boxes, labels = target["boxes"], target["labels"]
        except (TypeError, ValueError, KeyError, IndexError):
            raise self._wrong(
                f"must return an image and a dictionary with 'boxes' and 'labels'; got {_kind(answer)}"
            ) from None
        if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            raise self._wrong(
                f"must return a uint8 image of (C, H, W), like it was given; got {_kind(image)}"
            )
        if image.shape[0] != channels or not image.numel():
            raise self._wrong(f"was given {channels} channels, and returned an image of {tuple(image.shape)}")
        if (
            not isinstance(boxes, tv_tensors.BoundingBoxes)
            or boxes.format != tv_tensors.BoundingBoxFormat.XYXY
        ):
            raise self._wrong(f"must keep the boxes a BoundingBoxes of format XYXY; got {_kind(boxes)}")
        if len(labels) != len(boxes):
            raise self._wrong(f"returned {len(boxes)} boxes and {len(labels)} labels: drop both or none")
        size = (int(image.shape[1]), int(image.shape[2]))
        inside, keep = clip(
            boxes.as_subclass(torch.Tensor).to(torch.float64).reshape(-1, 4).numpy(),
            (0, 0, size[1], size[0]),
            _LEAST_SIDE,
            0.0,
        )
        pixels = np.ascontiguousarray(image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy())
        kept = torch.as_tensor(labels).to(torch.int64).numpy()[keep]
        return Sample(pixels, inside.astype(np.float32), kept)

    def _wrong(self, reason: str) -> TransformError:
        return TransformError(f"data.transforms={self.reference} {reason}")

    def __getstate__(self) -> str:
        return self.reference  # a worker process makes its own

    def __setstate__(self, reference: str) -> None:
        self.reference, self._made = reference, _make(reference)


def _make(reference: str) -> Callable[..., Any]:
    factory = imported(reference, f"data.transforms={reference}")
    try:
        made = factory()
    except TypeError as error:
        raise ConfigError(
            f"data.transforms={reference} must be callable without arguments: {error}"
        ) from error
    if not callable(made):
        raise ConfigError(
            f"data.transforms={reference} must return something to call, like torchvision.transforms.v2.Compose; "
            f"it returned {type(made).__name__}"
        )
    return made


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random numbers from a seed inside, and what they were before afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _kind(value: object) -> str:
    shape = f" of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else ""
    return f"{type(value).__name__}{shape}"
