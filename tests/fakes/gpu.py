"""A GPU that is not there: the CPU computes, and what would wait for a GPU, or be copied to it, is counted."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import flexdetr

GPU = torch.device("cuda", 0)
_PACKAGE = str(Path(flexdetr.__file__).parent)
# What gives numbers to the host.
_READS = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "equal", "allclose"}
# What has a shape that only the GPU knows.
_SHAPES = {"nonzero", "masked_select", "unique", "unique_consecutive", "repeat_interleave", "argwhere"}
_FROM_HOST = {"tensor", "as_tensor", "new_tensor", "asarray"}


# Pieces of memory that are taken for a GPU's, and for pinned ones. A weak reference keeps their number from being used
# again.
_OF_GPU: dict[int, StorageWeakRef] = {}
_PINNED: dict[int, StorageWeakRef] = {}


class Copy(NamedTuple):
    """A copy to the GPU; ``waits`` where the host stands still for it, since its memory is not pinned."""

    place: str
    waits: bool


class FakeGPU(TorchFunctionMode):
    """Inside, tensors of the device are tensors of the CPU that are marked.

    Args:
        device: which is not there; a Mac's ("mps") has no float64 and no gradient of ``grid_sample``.

    Attributes:
        syncs: lines of the package that wait for the GPU's answer, and how often.
        copies: to the GPU, in order.
    """

    def __init__(self, device=GPU):
        super().__init__()
        self.device = device
        self.reset()

    def reset(self):
        self.syncs, self.copies = Counter(), []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(getattr(func, "__self__", None), "__name__", "")  # of a getter or setter
        first = args[0] if args else None
        if name == "__get__" and owner in ("device", "is_cuda") and on_gpu(first):
            return self.device if owner == "device" else self.device.type == "cuda"
        if name == "pin_memory":
            assert not on_gpu(first), "only the host's memory can be pinned"
            assert self.device.type == "cuda", "only CUDA pins memory"
            found = first.clone()
            _PINNED[_memory(found)] = StorageWeakRef(found.untyped_storage())
            return found
        if name in ("to", "cpu", "cuda"):
            return self._moved(func, name, args, kwargs)
        if str(kwargs.get("device", "")).startswith(self.device.type):
            kwargs["device"] = "cpu"
            if name in _FROM_HOST:
                self._copy(None)
            return _marked(func(*args, **kwargs), True)
        return self._computed(func, name, args, kwargs)

    def _computed(self, func, name, args, kwargs):
        inside = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here = any(on_gpu(one) for one in inside)
        if here:
            self._count(name, args, kwargs)
        assert not (here and self.device.type == "mps" and name == "grid_sampler"), (
            "its gradient is not there"
        )
        result = func(*args, **kwargs)
        for one in tree_leaves(result):
            double = isinstance(one, Tensor) and one.dtype == torch.float64
            assert not (here and double and self.device.type == "mps"), f"{name} gives float64"
            _marked(one, here)
        return result

    def _moved(self, func, name, args, kwargs):
        first, *rest = args
        target = None if name == "to" else self.device if name == "cuda" else torch.device("cpu")
        for place, one in enumerate(rest):
            if isinstance(one, str | torch.device):
                target, rest[place] = torch.device(one), "cpu"
            elif isinstance(one, Tensor):
                target = self.device if on_gpu(one) else torch.device("cpu")
        if kwargs.get("device") is not None:
            target, kwargs["device"] = torch.device(kwargs["device"]), "cpu"
        result = func(first, *rest, **kwargs) if name == "to" else first
        if target is None or (target.type != "cpu") == on_gpu(first):
            return _marked(result, on_gpu(first))
        if target.type != "cpu":
            self._copy(first)
        elif not _caller_sees_through():
            self.syncs[_place()] += 1
        return _marked(result.clone() if result is first else result, target.type != "cpu")

    def _copy(self, source):
        self.copies.append(Copy(_place(), source is None or _memory(source) not in _PINNED))

    def _count(self, name, args, kwargs):
        waits = name in _READS or name in _SHAPES or (name == "where" and len(args) == 1)
        if name == "repeat_interleave":
            waits = "output_size" not in kwargs and not isinstance(args[1], int)
        if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
            index = tree_leaves(args[1])
            waits = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in index)
            copied = [one for one in index if isinstance(one, Tensor) and not on_gpu(one)]
            self.copies += [Copy(_place(), True) for one in copied if one.ndim]
        if name in _FROM_HOST:
            self._copy(None)
        if waits:
            self.syncs[_place()] += 1


def on_gpu(tensor):
    return isinstance(tensor, Tensor) and _memory(tensor) in _OF_GPU


def _memory(tensor):
    return tensor.untyped_storage()._cdata


def _marked(tensor, here):
    if here and isinstance(tensor, Tensor):
        _OF_GPU[_memory(tensor)] = StorageWeakRef(tensor.untyped_storage())
    return tensor


def _caller_sees_through():
    """torch's clipping groups tensors by device in C++, where these are the CPU's; on a GPU it would copy nothing."""
    return any(frame.filename.endswith("clip_grad.py") for frame in traceback.extract_stack(limit=6))


def _place():
    """The innermost line of the package that is being run, or the innermost of all."""
    frames = traceback.extract_stack()[:-1]
    ours = [one for one in frames if one.filename.startswith(_PACKAGE)]
    frame = (ours or frames)[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}: {frame.line}"
