"""Which images an epoch shows, and how often: each once, or those with rare classes more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexdetr.data.dataset import Record


def repeat_factors(records: Sequence[Record], threshold: float) -> NDArray[np.float64]:
    """How often an epoch shows each image on average (repeat-factor sampling; LVIS, arXiv 1908.03195, appendix B).

    A class that the share f of the images shows has the factor max(1, sqrt(threshold / f)), and an image the largest
    factor of its classes. Crowd regions show no class.

    Classes that a smaller share of the images shows than ``threshold``, in (0, 1], are repeated.

    Returns:
        (number of records,) float64, none below 1.
    """
    shown = [np.unique(record.labels[~record.iscrowd]) for record in records]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *shown]))
    share = np.maximum(counts, 1) / max(len(records), 1)
    of_class = np.maximum(1.0, np.sqrt(threshold / share))
    return np.array([of_class[labels].max(initial=1.0) for labels in shown], np.float64)


def epoch_length(factors: NDArray[np.float64]) -> int:
    """Samples of an epoch: as many for every epoch, so that the schedule is known beforehand."""
    return int(np.ceil(factors.sum() - 1e-9))


def samples_of_an_epoch(records: Sequence[Record], threshold: float | None) -> int:
    """Samples of an epoch of these images under ``data.repeat_threshold``."""
    return len(records) if threshold is None else epoch_length(repeat_factors(records, threshold))


def draw(factors: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The images of an epoch in a random order: each as often as its factor says, rounded up or down by chance.

    The roundings are drawn together (systematic sampling over a random order), which keeps the length of every epoch
    the same; LVIS rounds each by itself.

    Returns:
        (``epoch_length``,) int64.
    """
    length = epoch_length(factors)
    order = rng.permutation(len(factors))
    edges = np.cumsum(factors[order])
    edges *= length / edges[-1]
    edges[-1] = length
    passed = np.floor(edges + rng.random()).astype(np.int64)
    passed[-1] = length
    times = np.diff(passed, prepend=0)
    return np.asarray(rng.permutation(np.repeat(order, times)), np.int64)


def turns(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place of an epoch's order, how often its image came before; a repeated one is augmented anew."""
    places = np.argsort(order, kind="stable")
    ordered = order[places]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    counted = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    seen = np.empty(len(order), np.int64)
    seen[places] = counted
    return seen
