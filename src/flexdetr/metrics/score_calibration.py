"""Whether a score means what it says: the share of right detections among those with about the same score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_BINS = 10  # equal parts of the scores from 0 to 1
_LOWEST = 0.05  # below, there are hundreds of detections per image that nobody uses


class Ranked(Protocol):
    """Answers with their scores.

    ``scores`` are (N,) in [0, 1], ``right`` (N,) bool.
    """

    @property
    def scores(self) -> NDArray[np.float64]:
        """Their scores."""
        ...

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether they are right."""
        ...


@dataclass(frozen=True, eq=False)
class Calibration:
    """Detections sorted into bins by score.

    Attributes:
        edges: (bins + 1,) scores.
        counts: (bins,) detections.
        scores: (bins,) their mean score, nan in an empty bin.
        right: (bins,) the share of them that found an object, nan in an empty bin.
        error: expected calibration error: the mean distance of ``scores`` from ``right``, weighted by ``counts``; nan
            if there is no detection.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.float64]
    error: float


def calibrate(rankings: Iterable[Ranked]) -> Calibration:
    """Calibration over all classes, of the ranking of each; see ``rank_detections``."""
    every = list(rankings)
    scores = np.concatenate([np.zeros(0), *(one.scores for one in every)])
    right = np.concatenate([np.zeros(0, bool), *(one.right for one in every)])
    right, scores = right[scores >= _LOWEST], scores[scores >= _LOWEST]
    edges = np.linspace(0, 1, _BINS + 1)
    places = np.clip(np.digitize(scores, edges) - 1, 0, _BINS - 1)
    counts = np.bincount(places, minlength=_BINS)
    nan = np.full(_BINS, np.nan)
    means = np.divide(np.bincount(places, scores, _BINS), counts, out=nan.copy(), where=counts > 0)
    shares = np.divide(np.bincount(places, right, _BINS), counts, out=nan.copy(), where=counts > 0)
    total = counts.sum()
    filled = counts > 0
    error = float((np.abs(means - shares)[filled] * counts[filled]).sum() / total) if total else float("nan")
    return Calibration(edges, counts, means, shares, error)
