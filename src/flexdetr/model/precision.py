"""What is computed in float32 whatever the rest of the network computes in: boxes, scores, places.

Autocast lowers every linear layer and product of matrices that it meets. bf16 has eight significant bits: it tells a
box's position to a 256th of the picture, and logits between 2 and 4 to 0.016, so that many queries tie and the order of
ties decides the ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def widen(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is where its type is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations on a device compute in the types of what they are given.

    Where no autocast is active it is empty, so that traced and exported graphs hold nothing of it.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def precisely(part: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """``part(x, *others)`` computed in float32 under any autocast.

    Every head's scores, boxes, positions and sampling places go through this:
    ``logits = precisely(self.scores, query)``.

    Args:
        part: a layer, or a function of tensors that returns one.
        x: its first input; floating inputs are widened, other ones stay.
        others: further inputs.

    Returns:
        What the part returns, in float32 or wider. A layer whose own weights are narrower (``model.half()``) computes
        in their type, and only its result is widened.
    """
    own = next(part.parameters(), None) if isinstance(part, nn.Module) else None

    def fitted(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return widen(value) if own is None else value.to(own.dtype)

    with without_autocast(x.device):
        return widen(part(fitted(x), *(fitted(other) for other in others)))
