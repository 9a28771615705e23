"""Other projects' tensors under our names: ordered name rules, and the few changes of layout that they need."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexdetr.weights.container import WeightsError
from flexdetr.weights.deferred import Deferred

if TYPE_CHECKING:
    from torch import Tensor

Rules = Sequence[tuple[re.Pattern[str], str | None]]
KEEP = r"\g<0>"  # the target of a rule that changes nothing


@dataclass
class Renamed:
    """A checkpoint under our names.

    ``state`` has tensors by our module path, not read yet, ``left`` names that a detector does not need
    (derived buffers, classifier heads) with the reason, ``unknown`` names that no rule knows.
    """

    state: dict[str, Deferred] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def rules(*rows: tuple[str, str | None]) -> Rules:
    """Name rules: (regular expression at the start of a name, what replaces it; None leaves the tensor out)."""
    return tuple((re.compile(pattern), target) for pattern, target in rows)


def rename(
    tensors: Mapping[str, Deferred], table: Rules, *, reason: str = "derived when the model is built"
) -> Renamed:
    """Apply the first rule that fits the start of each name; the rest of the name stays.

    Raises:
        WeightsError: if two tensors get one name.
    """
    done = Renamed()
    for name, tensor in tensors.items():
        for pattern, target in table:
            if pattern.match(name) is None:
                continue
            if target is None:
                done.left[name] = reason
            else:
                ours = pattern.sub(target, name, count=1)  # unlike match.expand, it parses a target only once
                if ours in done.state:
                    raise WeightsError(f"two tensors claim the place of {ours}, one of them {name}")
                done.state[ours] = tensor
            break
        else:
            done.unknown.append(name)
    return done


def norm_names(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Batch norms as we call them: ``norm`` for ``bn``, torch's names of the statistics for Paddle's."""
    swaps = ((".bn.", ".norm."), ("._mean", ".running_mean"), ("._variance", ".running_var"))
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in swaps:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def transposed(tensor: Deferred) -> Deferred:
    """(A, B) as (B, A): Paddle's linear layers are (in, out)."""

    def read() -> Tensor:
        return tensor.read().T.contiguous()

    return Deferred(tensor.shape[::-1], tensor.dtype, read)


def rows_of(tensor: Deferred, begin: int, end: int) -> Deferred:
    """Rows ``begin`` to ``end`` of the first axis."""

    def read() -> Tensor:
        return tensor.read()[begin:end].clone()

    return Deferred((end - begin, *tensor.shape[1:]), tensor.dtype, read)


def stacked(parts: Sequence[Deferred]) -> Deferred:
    """Tensors one after the other along the first axis."""

    def read() -> Tensor:
        import torch

        return torch.cat([part.read() for part in parts])

    count = sum(part.shape[0] for part in parts)
    return Deferred((count, *parts[0].shape[1:]), parts[0].dtype, read)


def filled(shape: tuple[int, ...], value: float, dtype: str = "float32") -> Deferred:
    """A constant."""

    def read() -> Tensor:
        import torch

        return torch.full(shape, value, dtype=getattr(torch, dtype))

    return Deferred(shape, dtype, read)


def changed(tensor: Deferred, change: Callable[[Tensor], Tensor], dtype: str | None = None) -> Deferred:
    """A tensor of the same shape with other values or another type."""
    return Deferred(tensor.shape, dtype or tensor.dtype, lambda: change(tensor.read()))


def as_float32(state: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Half, bfloat16 and double precision weights in single precision; counters as they are."""
    return {
        name: changed(tensor, lambda read: read.float(), "float32")
        if tensor.dtype in ("float16", "bfloat16", "float64")
        else tensor
        for name, tensor in state.items()
    }


def complete(state: dict[str, Deferred]) -> dict[str, Deferred]:
    """What every dialect needs to become a detector's or a backbone's state dict.

    - self-attention: one packed projection, or one each, become query and key together, and value;
    - RepVGG blocks in deploy form get branches that add up to it;
    - batch norms without counters (frozen ones, Paddle's) get a zero;
    - the denoising embedding gets the zero row that Paddle and Ultralytics add at run time.
    """
    state = as_float32(_branch_deployed(_join_attention(state)))
    for name in [name for name in state if name.endswith(".running_var")]:
        counter = name.removesuffix("running_var") + "num_batches_tracked"
        state.setdefault(counter, filled((), 0, "int64"))
    embedding, score = (
        state.get("head.denoising.embedding.weight"),
        state.get("head.encoder_score.weight"),
    )
    if embedding is not None and score is not None and embedding.shape[0] == score.shape[0]:
        padding = filled((1, *embedding.shape[1:]), 0.0)
        state["head.denoising.embedding.weight"] = stacked([embedding, padding])
    return state


def _join_attention(state: Mapping[str, Deferred]) -> dict[str, Deferred]:
    joined: dict[str, Deferred] = {}
    for name, tensor in state.items():
        head, found, kind = name.partition(".attention.packed.")
        if found:
            if not tensor.shape or tensor.shape[0] % 3:
                raise WeightsError(
                    f"{name} of shape {list(tensor.shape)} is not a packed query-key-value projection"
                )
            third = tensor.shape[0] // 3
            joined[f"{head}.attention.query_key.{kind}"] = rows_of(tensor, 0, 2 * third)
            joined[f"{head}.attention.value.{kind}"] = rows_of(tensor, 2 * third, 3 * third)
            continue
        head, found, kind = name.partition(".attention.query.")
        if found:
            key = state.get(f"{head}.attention.key.{kind}")
            if key is not None:
                joined[f"{head}.attention.query_key.{kind}"] = stacked([tensor, key])
        elif ".attention.key." not in name:
            joined[name] = tensor
    return joined


_DEPLOYED = re.compile(r"(.*\.bottlenecks\.\d+)\.conv\.(weight|bias)")


def _branch_deployed(state: dict[str, Deferred]) -> dict[str, Deferred]:
    """A folded 3x3 convolution as the 3x3 branch, its bias as that branch's norm; the 1x1 branch adds nothing."""
    blocks = sorted({match[1] for name in state if (match := _DEPLOYED.fullmatch(name))})
    for block in blocks:
        weight, bias = state.pop(f"{block}.conv.weight", None), state.pop(f"{block}.conv.bias", None)
        if weight is None or bias is None or len(weight.shape) != 4:
            raise WeightsError(f"{block}.conv is no folded convolution with weight and bias")
        out, width = weight.shape[:2]
        narrow = filled((out, width, 1, 1), 0.0)
        for branch, kernel, shift in (("conv1", weight, bias), ("conv2", narrow, filled((out,), 0.0))):
            state[f"{block}.{branch}.conv.weight"] = kernel
            state[f"{block}.{branch}.norm.weight"] = filled((out,), math.sqrt(1 + 1e-5))
            state[f"{block}.{branch}.norm.bias"] = shift
            state[f"{block}.{branch}.norm.running_mean"] = filled((out,), 0.0)
            state[f"{block}.{branch}.norm.running_var"] = filled((out,), 1.0)
    return state


def without_prefix(tensors: Mapping[str, Deferred]) -> dict[str, Deferred]:
    """Names without what wrappers put before all of them (``module.`` of DDP, ``_orig_mod.`` of torch.compile)."""
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return without_prefix({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return dict(tensors)
