"""Sums of an epoch's loss terms, kept on the device where they are computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flexdetr.loss.matcher import to_device


class TermSums:
    """Adds up named terms without waiting for the device; ``read`` waits once for all of them.

    Terms may come and go: a batch without objects has none of denoising.

    Args:
        device: where the terms are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
        self.clear()

    def clear(self) -> None:
        """Begin again at nothing."""
        self._rows: dict[str, int] = {}
        self._places: dict[tuple[str, ...], Tensor] = {}
        self._sums = torch.zeros(0, dtype=self.dtype, device=self.device)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add scalars on the device to the sums of their names."""
        if not terms:
            return
        names = tuple(terms)
        if names not in self._places:
            self._places[names] = self._place(names)
        values = torch.stack(list(terms.values())).to(self.dtype)
        self._sums.index_add_(0, self._places[names], values)

    def read(self) -> dict[str, float]:
        """The sums by name, in the order in which names came."""
        return dict(zip(self._rows, self._sums.tolist(), strict=True))

    def load(self, sums: Mapping[str, float]) -> None:
        """Go on from what ``read`` gave."""
        self.clear()
        self._rows = {name: row for row, name in enumerate(sums)}
        self._sums = torch.tensor(list(sums.values()), dtype=self.dtype, device=self.device)

    def _place(self, names: tuple[str, ...]) -> Tensor:
        for name in names:
            self._rows.setdefault(name, len(self._rows))
        self._sums = torch.cat([self._sums, self._sums.new_zeros(len(self._rows) - len(self._sums))])
        return to_device(torch.tensor([self._rows[name] for name in names]), self.device)
