"""What the loss looks at: each supervised layer with the pairs of queries and objects that its terms are taken over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flexdetr.loss.matcher import Match, Matcher, denoising_match, to_device
from flexdetr.model.outputs import Output, Prediction, Targets


class Supervised(NamedTuple):
    """One layer that the loss looks at.

    Attributes:
        name: "final", "aux0", "pre", "encoder", "denoising0", "denoising_pre" ...
        prediction: its answer.
        match: which of its queries answer for which objects.
        copies: how often each object is matched; the class term is divided by this and the number of objects.
        box_match: the pairs of the box terms; ``match`` itself unless the layers' matches are united.
        box_share: what sums over ``box_match`` are multiplied by before they are divided by the number of objects.
    """

    name: str
    prediction: Prediction
    match: Match
    copies: int
    box_match: Match
    box_share: float


class Part(NamedTuple):
    """One kind of loss in several layers.

    Attributes:
        term: its name, like "l1".
        layers: names of the layers.
        sums: (number of layers,) sums, which the criterion divides by the number of objects.
        factors: what each sum is multiplied by: the term's weight and what its pairs ask for.
    """

    term: str
    layers: Sequence[str]
    sums: Tensor
    factors: Sequence[float]


class MatchedPairs(NamedTuple):
    """Pairs of several layers on the device, layer after layer.

    Attributes:
        images: (P,) index of the image in the batch.
        rows: (P,) index of the query, among all layers' queries or in its own layer.
        objects: (P,) index of the object in the batch's objects.
        sizes: pairs of each layer.
    """

    images: Tensor
    rows: Tensor
    objects: Tensor
    sizes: tuple[int, ...]


def supervised_layers(
    output: Output, targets: Targets, matcher: Matcher, *, unite: bool = False
) -> Iterator[Supervised]:
    """Every layer that has a loss: final, auxiliary, plain first boxes, encoder and denoising.

    Layers of matching queries are each matched on their own, all in one go; denoising queries know their objects.

    Args:
        output: of a detector in training mode.
        targets: the batch's objects.
        matcher: with the costs.
        unite: take the box terms of matching queries over the union of all layers' matches (global optimal
            localization of D-FINE, arXiv 2410.13842, section 4.2). An encoder whose objects are matched several times
            has more pairs than any other layer may learn from: it keeps its own.
    """
    free = {"final": output.final}
    free |= {f"aux{index}": prediction for index, prediction in enumerate(output.aux)}
    if output.pre is not None:
        free["pre"] = output.pre
    if output.encoder is not None:
        free["encoder"] = output.encoder
    copies = {"encoder": matcher.config.encoder_copies or 1}
    matches = matcher(free, targets, copies=copies)
    single = [name for name in matches if copies.get(name, 1) == 1]
    united = union([matches[name] for name in single]) if unite else None
    for name, match in matches.items():
        count = copies.get(name, 1)
        if united is None or name not in single:
            yield Supervised(name, free[name], match, count, match, 1 / count)
        else:
            share = max(targets.num_objects, 1) / max(len(united.objects), 1)
            yield Supervised(name, free[name], match, count, united, share)
    if output.plan is not None:
        match = denoising_match(output.plan, targets)
        noisy = {f"denoising{index}": prediction for index, prediction in enumerate(output.denoising)}
        if output.pre_denoising is not None:
            noisy["denoising_pre"] = output.pre_denoising
        groups = output.plan.num_groups
        for name, prediction in noisy.items():
            yield Supervised(name, prediction, match, groups, match, 1 / groups)


def union(matches: Sequence[Match]) -> Match:
    """The pairs of several matches of the same queries, where a query keeps the object that most matches give it.

    An object can have several queries in the result. Of objects with equally many votes the first is kept, where the
    published implementation leaves the choice to an unstable sort.
    """
    votes = np.concatenate([np.stack([match.images, match.queries, match.objects]) for match in matches], 1)
    if not votes.size:
        return matches[0]
    pairs, counts = np.unique(votes, axis=1, return_counts=True)
    images, queries, objects = pairs
    order = np.lexsort((objects, -counts, queries, images))
    images, queries, objects = images[order], queries[order], objects[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(images) != 0) | (np.diff(queries) != 0)
    return Match(images[first], queries[first], objects[first])


def on_device(matches: Sequence[Match], starts: Sequence[int], device: torch.device) -> MatchedPairs:
    """The pairs of several layers in one transfer.

    ``starts`` is added to each layer's query indices: queries of the layers before, where layers are put side
    by side, or zeros.
    """
    rows = [match.queries + start for match, start in zip(matches, starts, strict=True)]
    columns = ([match.images for match in matches], rows, [match.objects for match in matches])
    indices = torch.from_numpy(np.stack([np.concatenate(column) for column in columns]))
    images, queries, objects = to_device(indices, device)
    return MatchedPairs(images, queries, objects, tuple(len(match.objects) for match in matches))


def segment_sums(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums (number of sizes,) of consecutive pieces of ``values``; one operation for a run of equal sizes."""
    sums, start = [], 0
    for size, run in groupby(sizes):
        pieces = len(list(run))
        sums.append(values[start : start + pieces * size].view(pieces, size).sum(1))
        start += pieces * size
    return torch.cat(sums)


def labels(parts: Sequence[Part]) -> list[str]:
    """Names of all parts' layers: "l1" for the final layer, "l1.aux0" for another."""
    return [
        part.term if layer == "final" else f"{part.term}.{layer}" for part in parts for layer in part.layers
    ]


def weighted(parts: Sequence[Part], boxes: Tensor | float) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss of all parts.

    Sums are divided by ``boxes``, the number of objects.

    Returns:
        The sum, and each part's share without gradient by its label.
    """
    sums = torch.cat([part.sums for part in parts])
    factors = torch.tensor([factor for part in parts for factor in part.factors], dtype=sums.dtype)
    values = sums * to_device(factors, sums.device) / boxes
    return values.sum(), dict(zip(labels(parts), values.detach().unbind(), strict=True))
