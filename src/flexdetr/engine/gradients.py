"""Gradients of processes that train together, added up while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flexdetr.engine.distributed import Ranks

# Numbers of a piece: large enough that few messages are sent, small enough that the first one leaves early.
_NUMBERS = 4_000_000


class GradientSum:
    """Sums each gradient over all ranks, in pieces that are sent as soon as their gradients are there.

    Every rank sends the same pieces in the same order: a piece waits for those before it, and ``finish`` sends what the
    backward pass left over, with zeros for gradients that a rank does not have (its images have no objects, say). So no
    rank waits for a piece that another never sends. ``DistributedDataParallel`` does not allow what a step needs
    here: to begin again in smaller micro-batches on one rank that ran out of memory.

    The pieces travel over a process group of their own, since synchronised norms meet in the same backward pass and
    each group delivers in the order in which it was called.

    Args:
        parameters: all that learn, in the model's order; the last ones get their gradients first.
        ranks: this process among those that train together; with one process nothing is done.
        numbers: most numbers of a piece, unless one parameter has more.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, numbers: int = _NUMBERS) -> None:
        self._pieces = _pieces(reversed(list(parameters)), numbers) if ranks.size > 1 else []
        self._group = cast("dist.ProcessGroup", dist.new_group()) if ranks.size > 1 else None
        self._piece_of = {parameter: place for place, piece in enumerate(self._pieces) for parameter in piece}
        self._missing: list[set[nn.Parameter]] = [set() for _ in self._pieces]
        self._sent: list[tuple[Tensor, dist.Work]] = []
        self._listening = False
        for parameter in self._piece_of:
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def listen(self, last: bool) -> None:
        """A backward pass follows; where it is the ``last`` one of the step on this rank, what it completes is sent.

        Also where that pass was tried before and failed: pieces that were sent then are not sent again.
        """
        self._listening = last
        self._missing = [set(piece) for piece in self._pieces]

    def finish(self) -> None:
        """Every gradient becomes the sum over the ranks; one that a rank does not have counts as zero."""
        self._listening = False
        while len(self._sent) < len(self._pieces):
            self._send()
        for piece, (flat, work) in zip(self._pieces, self._sent, strict=True):
            work.wait()  # on a GPU only the device's stream waits
            gradients = [_gradient(parameter) for parameter in piece]
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            torch._foreach_copy_(
                gradients, [part.view(old.shape) for part, old in zip(parts, gradients, strict=True)]
            )
        self._sent = []

    def _arrived(self, parameter: Tensor) -> None:
        if not self._listening or not isinstance(parameter, nn.Parameter):
            return
        self._missing[self._piece_of[parameter]].discard(parameter)
        while len(self._sent) < len(self._pieces) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        piece = self._pieces[len(self._sent)]
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in piece])
        work = dist.all_reduce(flat, group=self._group, async_op=True)
        self._sent.append((flat, work))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _pieces(parameters: Iterable[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """Neighbours of one type that together have at most so many numbers."""
    pieces: list[list[nn.Parameter]] = []
    numbers = 0
    for parameter in parameters:
        if not pieces or numbers + parameter.numel() > most or parameter.dtype != pieces[-1][0].dtype:
            pieces.append([])
            numbers = 0
        pieces[-1].append(parameter)
        numbers += parameter.numel()
    return pieces
