"""Exponential moving average of a model's whole floating-point state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class AveragedModel(Generic[M]):
    """A copy of the model whose weights and statistics trail the trained ones.

    The decay of update n is ``decay * (1 - exp(-n / horizon))``, by default with the horizon that the decay itself
    implies, so that the first updates follow the model closely.

    Attributes:
        model: the averaged copy, in evaluation mode.
        updates: how many updates it has seen.
    """

    def __init__(self, model: M, decay: float, horizon: float | None = None) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.horizon = horizon or (1 / (1 - decay) if decay < 1 else math.inf)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model: two calls, whatever the number of tensors.

        Floating-point tensors move by a common share; all others, like the norms' counters, are copied.
        """
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.horizon))
        averaged, current, counts, counted = [], [], [], []
        for mine, other in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(other)
            else:
                counts.append(mine)
                counted.append(other)
        torch._foreach_lerp_(averaged, current, 1 - decay)
        if counts:
            torch._foreach_copy_(counts, counted)

    def state_dict(self) -> dict[str, object]:
        """All that ``load_state_dict`` needs."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a former state."""
        weights, updates = state["model"], state["updates"]
        if not isinstance(weights, dict) or not isinstance(updates, int):
            raise TypeError("this is not the state of an averaged model")
        tensors: dict[str, Tensor] = weights
        self.model.load_state_dict(tensors)
        self.updates = updates
