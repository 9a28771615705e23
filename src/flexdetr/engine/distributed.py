"""Processes that train one detector together: who they are, what they tell each other, whose gradients they add.

``launch`` or torchrun starts them and torch.distributed connects them: gloo on CPUs, NCCL on GPUs. Numbers that steer
the loop (objects, requests to stop) always travel over gloo, so that no GPU is waited for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flexdetr.config import Config, ConfigError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_BEAT = 1.0  # seconds
# A rank that waits this long for another waits for one that is gone.
_PATIENCE = timedelta(hours=1)

# Environment variable: where ranks of one machine find each other, a file's URI. Without it they do as torchrun says.
MEETING_PLACE = "FLEXDETR_MEETING_PLACE"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; with one process every method is free.

    Attributes:
        rank: of this process, counted over all machines.
        size: processes altogether.
        local_rank: of this process on its machine.
        local_size: processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def table(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every rank's numbers, by rank; each rank gives equally many."""
        if self.size == 1:
            return [list(numbers)]
        own = torch.tensor(numbers, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return [row.tolist() for row in rows]

    def gathered(self, thing: T) -> list[T]:
        """Every rank's thing, by rank."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def from_first(self, thing: T) -> T:
        """What the first rank has; the others' is not looked at."""
        things = [thing]
        if self.size > 1:
            dist.broadcast_object_list(things, src=0, device=torch.device("cpu"))
        return things[0]

    def by_first(self, work: Callable[[], T], otherwise: T, beat: Callable[[], None] | None = None) -> T:
        """What the first rank's work gives there, and ``otherwise`` on the others; where it raises, all raise.

        ``beat`` is called by those that wait, see ``wait``.
        """
        done, error = otherwise, None
        if self.first:
            try:
                done = work()
            except Exception as refused:
                error = refused
        self.wait(beat)
        if (common := self.from_first(error)) is not None:
            raise common
        return done

    def wait(self, beat: Callable[[], None] | None = None) -> None:
        """Goes on when all are here; ``beat`` is called every second until then, so that a watchdog knows of it."""
        if self.size == 1:
            return
        work = dist.all_reduce(torch.zeros(1), async_op=True)
        while beat is not None and not work.is_completed():
            beat()
            time.sleep(_BEAT)
        work.wait()

    def same_weights(self, module: nn.Module) -> None:
        """Every rank takes the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                _broadcast(tensor)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its mean over the ranks; all of them go in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat / self.size, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            torch._foreach_copy_(
                list(tensors), [part.view(old.shape) for part, old in zip(parts, tensors, strict=True)]
            )

    def add(self, number: Tensor) -> None:
        """The tensor becomes the sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(number)


def among_others() -> bool:
    """Whether ``launch``, torchrun, or something else that sets the same variables, started this process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join(config: Config) -> Ranks:
    """Connect with the processes beside this one; alone if there are none.

    Raises:
        ConfigError: if the configuration asks for several processes and this one is alone.
    """
    if not among_others():
        if (wanted := wanted_processes(config)) > 1:
            raise ConfigError(
                f"train.processes={wanted}, but this process is alone; use flexdetr train, or torchrun "
                f"--nproc-per-node {wanted}"
            )
        return Ranks()
    environment = os.environ
    local_rank = int(environment.get("LOCAL_RANK", environment["RANK"]))
    on_gpu = config.train.device.startswith("cuda") or (
        config.train.device == "auto" and torch.cuda.is_available()
    )
    if on_gpu:
        torch.cuda.set_device(device_index(config.train.device, local_rank))
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=_meeting(environment.get(MEETING_PLACE, "env://")),
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            timeout=_PATIENCE,
        )
    size = dist.get_world_size()
    return Ranks(dist.get_rank(), size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)))


def _meeting(place: str) -> Store:
    """Where ranks tell each other their addresses.

    torchrun keeps its store when it begins processes again: without a name for each time they would find the addresses
    of those that died.
    """
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    environment = os.environ
    found = rendezvous(place, int(environment["RANK"]), int(environment["WORLD_SIZE"]), timeout=_PATIENCE)
    store, _, _ = next(found)
    store.set_timeout(_PATIENCE)
    return PrefixStore(f"time-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def leave() -> None:
    """Close the connection that ``join`` opened, so that the next run in this process can open its own."""
    if dist.is_available() and dist.is_initialized():
        with suppress(RuntimeError):  # the others may be gone; there is nothing left to say to them
            dist.destroy_process_group()


def wanted_processes(config: Config) -> int:
    """How many processes the configuration asks for: ``train.processes``, or one for each GPU that is named.

    Raises:
        ConfigError: if the two contradict each other.
    """
    named = device_indices(config.train.device)
    wanted = config.train.processes
    if wanted is None:
        return max(1, len(named))
    if len(named) > 1 and wanted != len(named):
        raise ConfigError(
            f"train.processes={wanted}, but train.device={config.train.device} names {len(named)} GPUs; give one of "
            "the two"
        )
    return wanted


def device_indices(device: str) -> list[int]:
    """The GPUs that "cuda:0,1" names; none for "cuda", "cpu" and "auto".

    Raises:
        ConfigError: if the list cannot be read.
    """
    kind, _, numbers = device.partition(":")
    if kind != "cuda" or not numbers:
        return []
    try:
        indices = [int(number.removeprefix("cuda:")) for number in numbers.split(",")]
    except ValueError:
        raise ConfigError(f"device {device!r} is not one; several GPUs are given like cuda:0,1") from None
    if len(set(indices)) < len(indices):
        raise ConfigError(f"device {device!r} names a GPU twice")
    return indices


def device_index(device: str, local_rank: int) -> int:
    """The GPU of a rank: its place in the list, or its own number if there is no list of several."""
    named = device_indices(device)
    return named[local_rank] if local_rank < len(named) else local_rank


def own_device(device: str, ranks: Ranks) -> str:
    """The name of the device that this rank computes on."""
    several = len(device_indices(device)) > 1
    if ranks.size == 1 and not several:
        return device
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{device_index(device, ranks.local_rank)}" if on_gpu else device


def _broadcast(tensor: Tensor) -> None:
    if tensor.is_contiguous():
        dist.broadcast(tensor, src=0)
        return
    copy = tensor.contiguous()
    dist.broadcast(copy, src=0)
    tensor.copy_(copy)
