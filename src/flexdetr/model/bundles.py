"""Channels that stand or fall together, found by Torch-Pruning's dependency graph (arXiv 2301.12900), and taking them.

A channel is written by one layer and read by others; sums tie channels of several writers together, concatenations move
them. A bundle is a set of channels that can be taken away one by one with all that writes and reads them. The levels
that the head sees keep their width, and so do all layers inside of the head; left as they are, too, are channels whose
neighbours matter: those of layer norms, of attention, of tensors that are split.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from flexdetr.model.detector import DetectionModel
from flexdetr.model.pruned import take, widths_of_layer

_log = logging.getLogger(__name__)

# Vector units work on so many channels at a time: fewer are no faster.
MULTIPLE: Final = 8
# Relative to the largest value of the levels, in float64.
EXACT: Final = 1e-9
_SIDE: Final = 64  # of the drawn picture that shows how channels hang together


class Member(NamedTuple):
    """What one layer has of a bundle.

    Attributes:
        path: the layer's.
        axis: 0 where it writes or passes on the channels, 1 where it reads them.
        places: N positions along this axis.
        roots: which of the bundle's channels stands at each of them; None where that is not known.
    """

    path: str
    axis: int
    places: tuple[int, ...]
    roots: tuple[int | None, ...]


class Bundle(NamedTuple):
    """Channels that can be taken away one by one, each with all that belongs to it.

    Attributes:
        importance: (C,) the mean square size of what belongs to a channel (the group magnitude of arXiv 2301.12900).
        members: the layers.
    """

    importance: Tensor
    members: tuple[Member, ...]

    def gone(self, share: float) -> Tensor:
        """(C,) which channels go, the least important ones, where about this share has to."""
        count = len(self.importance)
        kept = min(count, max(1, math.ceil((1 - share) * count / MULTIPLE)) * MULTIPLE)
        gone = torch.ones(count, dtype=torch.bool)
        gone[self.importance.argsort(descending=True, stable=True)[:kept]] = False
        return gone


def find_bundles(model: DetectionModel) -> tuple[Bundle, ...]:
    """The bundles of backbone and encoder, each of which was tried: what is left computes the same without it.

    Raises:
        ModuleNotFoundError: if torch-pruning is not installed.
    """
    import torch_pruning
    from torch_pruning.ops import OPTYPE

    passing = {OPTYPE.ELEMENTWISE, OPTYPE.CONCAT, OPTYPE.RESHAPE}
    layers = {OPTYPE.CONV, OPTYPE.DEPTHWISE_CONV, OPTYPE.BN, OPTYPE.LINEAR}
    image = torch.rand(1, model.channels, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.enable_grad():
        traced = copy.deepcopy(model).cpu().float().eval().requires_grad_(True)
        graph = torch_pruning.DependencyGraph().build_dependency(
            traced, image, forward_fn=_levels, verbose=False
        )
        paths = {layer: path for path, layer in traced.named_modules()}
        magnitude = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        found = []
        for group in graph.get_all_groups():
            if {dep.target.type for dep, _ in group} - passing - layers:
                continue
            members = tuple(
                Member(
                    paths[item.dep.target.module],
                    0 if graph.is_out_channel_pruning_fn(item.dep.handler) else 1,
                    tuple(item.idxs),
                    tuple(item.root_idxs),
                )
                for item in group.items
                if item.dep.target.type in layers
            )
            if all(_has(traced.get_submodule(member.path), member) for member in members):
                found.append(Bundle(magnitude(group).detach(), members))
    return tuple(_removable(traced.double().requires_grad_(False), found, image.double()))


def remove_channels(model: DetectionModel, bundles: Sequence[Bundle], share: float) -> DetectionModel:
    """A copy of a detector without the least important channels of each bundle.

    ``share`` is that of each bundle's channels, about; what stays is a multiple of ``MULTIPLE`` where it can
    be.
    """
    with torch.inference_mode(False):
        narrowed = copy.deepcopy(model)
        for (path, axis), gone in _removed_positions(model, bundles, share).items():
            take(narrowed.get_submodule(path), axis, (~gone).nonzero()[:, 0])
    return narrowed


@torch.no_grad()
def deviation(model: DetectionModel, bundles: Sequence[Bundle], share: float, images: Tensor) -> float:
    """How far a pruned detector is from the whole one in which nobody reads the channels that are gone.

    They are the same function where each layer was narrowed at the right places: the difference is that of rounding.

    The whole detector is in float64 and evaluation mode; ``images`` are (B, 3, H, W) float64, normalised.

    Returns:
        The largest difference in the levels that the head sees, relative to their largest value.
    """
    silenced = copy.deepcopy(model)
    for (path, axis), gone in _removed_positions(model, bundles, share).items():
        if axis == 1:
            silenced.get_submodule(path).get_parameter("weight")[:, gone] = 0
    try:
        narrowed = _levels(remove_channels(model, bundles, share), images)
    except RuntimeError:  # torch's word for shapes that do not fit: no part of what was asked
        return math.inf
    pairs = list(zip(_levels(silenced, images), narrowed, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return math.inf
    scale = max(float(one.abs().max()) for one, _ in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs) / (scale or 1.0)


def _levels(model: DetectionModel, images: Tensor) -> list[Tensor]:
    """What keeps its width: the encoder's levels, and the deepest before the fusion, which a teacher looks at."""
    within = model.encoder.within(model.backbone(images))
    return [
        level * 1.0 for level in (within[-1], *model.encoder.across(within))
    ]  # an output is no layer's own


def _has(layer: nn.Module, member: Member) -> bool:
    """Whether a layer can be narrowed, and has the channels that the graph thinks it has."""
    widths = widths_of_layer(layer)
    return widths is not None and None not in member.roots and max(member.places) < widths[member.axis]


def _removed_positions(
    model: nn.Module, bundles: Sequence[Bundle], share: float
) -> dict[tuple[str, int], Tensor]:
    """Which positions go along each axis of each layer."""
    found: dict[tuple[str, int], Tensor] = {}
    for bundle in bundles:
        gone = bundle.gone(share)
        if not gone.any():
            continue
        for path, axis, places, roots in bundle.members:
            layer = model.get_submodule(path)
            if (path, axis) not in found:
                size = (widths_of_layer(layer) or ())[axis]
                found[path, axis] = torch.zeros(size, dtype=torch.bool)
            found[path, axis][torch.tensor(places)[gone[torch.tensor(roots)]]] = True
    return found


def _removable(model: DetectionModel, bundles: Sequence[Bundle], images: Tensor) -> list[Bundle]:
    """The bundles that can be taken from as they say, found by halves."""
    if not bundles or deviation(model, bundles, 0.5, images) <= EXACT:
        return [*bundles]
    if len(bundles) == 1:
        _log.info("%s keeps its width: what reads its channels is not known", bundles[0].members[0].path)
        return []
    middle = len(bundles) // 2
    return [*_removable(model, bundles[:middle], images), *_removable(model, bundles[middle:], images)]
