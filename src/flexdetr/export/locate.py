"""Where a written graph goes wrong: the first layer whose output departs from the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexdetr.export.prepare import HEAD, DeployForm
from flexdetr.model.heads.base import Probes

if TYPE_CHECKING:
    from flexdetr.export.formats import Writer

# Values of so many layers are read at a time: reading all of a large network's would take gigabytes.
PROBES = 12


@dataclass(frozen=True)
class Departure:
    """A layer whose output is not what the model computes, after others whose output is.

    ``kind`` is like "LayerNorm"; ``error`` is the size of the difference relative to the output's, inf where
    the output is not finite.
    """

    layer: str
    kind: str
    error: float

    def __str__(self) -> str:
        how = "its output is not finite" if np.isinf(self.error) else f"its output is off by {self.error:.1%}"
        return f"{self.layer} ({self.kind}): {how}"


def first_departure(
    form: DeployForm, path: Path, writer: Writer, feeds: Mapping[str, NDArray[Any]], limits: Sequence[float]
) -> Departure | None:
    """Search a written graph for the first layer that departs from the float32 form.

    Args:
        form: the float32 form.
        path: the written file.
        writer: the format's module.
        feeds: the graph's inputs for a picture on which it is wrong.
        limits: relative differences that count as a departure, largest first: an outright mistake is to be found
            before the slow growth of rounding.

    Returns:
        The layer; None where every layer agrees, so that the mistake lies between or behind the layers.
    """
    inputs = tuple(torch.tensor(feed) for feed in feeds.values())
    places = writer.layers(path)
    order = [name for name in _order(form, inputs) if name in places]
    probes = form.detector.head.probes(form.options.decoder_layers or form.detector.head.trained_layers)
    selected = f"{HEAD}.{probes.content}"

    def errors(names: Sequence[str]) -> list[float]:
        asked = list(dict.fromkeys([*names, *([selected] if selected in places else [])]))
        expected = _values(form, inputs, asked)
        found = dict(
            zip(asked, writer.read_values(path, [places[name] for name in asked], feeds), strict=True)
        )
        same = _same_queries(expected.get(selected), found.get(selected))
        return [_difference(*_aligned(name, expected[name], found[name], same, probes)) for name in names]

    for limit in limits:
        place = search(len(order), lambda chosen: errors([order[i] for i in chosen]), limit)
        if place is not None:
            index, error = place
            layer = form.get_submodule(order[index])
            kind = type(getattr(layer, "inner", layer)).__name__
            return Departure(order[index].removeprefix("detector."), kind, error)
    return None


def search(
    count: int, errors: Callable[[Sequence[int]], Sequence[float]], limit: float, probes: int = PROBES
) -> tuple[int, float] | None:
    """The first of ``count`` places whose error exceeds a limit, asking for few at a time.

    Errors persist from the first wrong place on; ``probes`` places are asked for at a time.

    Returns:
        The place and its error; None if the last place is right.
    """
    low, high = 0, count  # the first wrong place is in [low, high)
    answer = None
    while low < high:
        asked = sorted({round(x) for x in np.linspace(low, high - 1, min(probes, high - low))})
        wrong = [(place, error) for place, error in zip(asked, errors(asked), strict=True) if error > limit]
        if not wrong:
            return answer
        answer = wrong[0]
        right = [place for place in asked if place < answer[0]]
        low, high = (right[-1] + 1 if right else low), answer[0]
    return answer


def _order(form: DeployForm, inputs: tuple[Tensor, ...]) -> list[str]:
    """Layers in the order of their computation; those that run more than once are left out."""
    calls: list[str] = []
    with _watched(form, lambda name, _: calls.append(name)):
        form(*inputs)
    return [name for name in calls if calls.count(name) == 1]


def _values(
    form: DeployForm, inputs: tuple[Tensor, ...], names: Sequence[str]
) -> dict[str, NDArray[np.floating]]:
    values: dict[str, NDArray[np.floating]] = {}

    def keep(name: str, output: Tensor) -> None:
        if name in names:
            values[name] = output.clone().numpy()  # an activation may write into it afterwards

    with _watched(form, keep):
        form(*inputs)
    return values


@contextmanager
def _watched(form: DeployForm, seen: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``seen`` with each layer's name and output."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen(name, output) if isinstance(output, Tensor) else None

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in form.named_modules():
            layer = name and not any(True for _ in module.children())
            if name == "preprocess" or (layer and any(True for _ in module.parameters(recurse=False))):
                hooks.enter_context(module.register_forward_hook(hook(name)))
        yield


def _same_queries(
    expected: NDArray[np.floating] | None, found: NDArray[np.floating] | None
) -> NDArray[np.intp] | None:
    """For each query of the model, the written graph's that has the same content: ties may come in another order.

    Returns:
        (B, Q) positions; None if they cannot be told.
    """
    if expected is None or found is None or expected.shape != found.shape or not np.isfinite(found).all():
        return None
    distance = np.square(expected[:, :, None] - found[:, None]).sum(-1)
    return np.asarray(distance.argmin(-1))


def _aligned(
    name: str,
    expected: NDArray[np.floating],
    found: NDArray[np.floating],
    same: NDArray[np.intp] | None,
    probes: Probes,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    by_query = name.startswith(tuple(f"{HEAD}.{prefix}" for prefix in probes.per_query))
    if same is None or not by_query or name.endswith(probes.per_token) or expected.shape != found.shape:
        return expected, found
    return expected, np.take_along_axis(found, same[..., None], 1)


def _difference(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Size of the difference relative to the size of what is expected."""
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    off = float(np.sqrt(np.mean(np.square(expected.astype(np.float64) - found))))
    return off / max(size, 1e-6)
