"""Where a query looked: the sampling points of deformable attention, their weights, and heat maps of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from flexdetr.classes import Classes
from flexdetr.draw import annotate
from flexdetr.engine.device import choose_device
from flexdetr.engine.predict import run_network
from flexdetr.model.deformable import DeformableAttention, attentions
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Prediction
from flexdetr.model.postprocess import detections
from flexdetr.runtime.arrays import shown
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.process import prepare

# A map is no larger than that; the points lie on cells of some pixels anyway.
_LONGEST = 640
_OPACITY = 0.65
# From nothing to the most: dark blue, magenta, orange, pale yellow.
_COLOURS = np.array([(0, 0, 40), (120, 20, 130), (240, 110, 40), (255, 250, 200)], np.float64)


class ExplainError(ValueError):
    """A detector that does not show where it looks; the message says why."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was found in a picture, and where the query of each object looked in the last decoder layer.

    Attributes:
        image: (H, W, 3) uint8 RGB, the picture.
        found: N objects, best first.
        points: (N, P, 2) float32 sampling points of all heads and levels, xy pixels of the picture; some may lie
            outside.
        weights: (N, P) float32 attention weights, which sum to 1.
        levels: (P,) int64 the encoder's level of each point, 0 is the finest.
        heat: (N, h, w) float32 maps of the picture, of at most 640 pixels on the longer side: each point's weight
            spread over a cell of its level. Each sums to the weights inside of the picture.
    """

    image: NDArray[np.uint8]
    found: Detections
    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    levels: NDArray[np.int64]
    heat: NDArray[np.float32]

    def plot(self, index: int | None = None) -> Image.Image:
        """The picture under the heat of one object, or of all, with boxes.

        Args:
            index: of the object; None shows all, each as strongly as it looks.
        """
        chosen = slice(None) if index is None else slice(index, index + 1)
        maps = self.heat[chosen]
        peaks = maps.max(axis=(1, 2), keepdims=True, initial=0)
        together = (maps / np.maximum(peaks, 1e-12)).max(axis=0, initial=0)
        return annotate(_over(shown(self.image), together), self.found[chosen])

    def save(self, path: str | Path, index: int | None = None) -> Path:
        """Write ``plot`` to a file."""
        self.plot(index).save(path)
        return Path(path)


@torch.inference_mode()
def explain(
    model: DetectionModel,
    image: NDArray[np.uint8],
    *,
    classes: Classes,
    size: tuple[int, int],
    threshold: float | Sequence[float],
    device: str = "auto",
    precision: str = "auto",
) -> Explanation:
    """Find objects, and note where their queries look.

    See ``Detector.explain``; ``image`` is (H, W, 3) uint8 RGB, ``size`` the (height, width) that the network sees.

    Raises:
        ExplainError: if the head has no queries that attend to places.
    """
    layers = looking_layers(model)
    place = choose_device(device)
    model.eval().to(place)
    noted: list[Places] = []
    with _noting(layers, noted):
        prediction = run_network(model, prepare(image, size), place, precision=precision)
    height, width = image.shape[:2]
    found = detections(model.head, prediction, (height, width), classes, threshold)
    last = noted[-1]
    queries = _queries(prediction, found)
    points = last.points[queries] * np.array([width, height], np.float32)
    weights = last.weights[queries]
    heat = _heat(points, weights, last, (height, width))
    return Explanation(image, found, points, weights, last.levels, heat)


def looking_layers(model: DetectionModel) -> list[DeformableAttention]:
    """The layers whose queries choose where to look.

    Raises:
        ExplainError: if the head has none.
    """
    layers = attentions(cast("nn.Module", model.head))
    if not layers:
        raise ExplainError(
            f"{type(model.head).__name__} has no queries that choose where to look: each of its cells sees its own "
            "surroundings. Heat maps are for heads with queries, like rtdetr and dfine"
        )
    return layers


@dataclass(frozen=True, eq=False)
class Places:
    """Where the queries of a layer looked: (Q, P, 2) fractions, (Q, P) weights, (P,) levels, and the levels' shapes."""

    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    levels: NDArray[np.int64]
    shapes: tuple[tuple[int, int], ...]


@contextmanager
def _noting(layers: Sequence[DeformableAttention], noted: list[Places]) -> Iterator[None]:
    def note(part: nn.Module, arguments: tuple[Any, ...], _result: object) -> None:
        module = cast("DeformableAttention", part)
        query, reference, _, shapes = arguments
        locations, weights = module.places(query, reference)
        _, length, heads, count, _ = locations.shape
        of_head = np.repeat(np.arange(len(module.points)), module.points)
        noted.append(
            Places(
                locations[0].reshape(length, heads * count, 2).float().cpu().numpy(),
                weights[0].reshape(length, heads * count).float().div(heads).cpu().numpy(),
                np.tile(of_head, heads),
                tuple((int(tall), int(wide)) for tall, wide in shapes),
            )
        )

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(note))
        yield


def _queries(prediction: Prediction, found: Detections) -> NDArray[np.int64]:
    """The query that each detection came from: of those with its score for its class, the first that is free.

    Equal scores of one class come from queries that are alike in all that is shown.
    """
    scores = prediction.logits[0].float().sigmoid().cpu().numpy()
    taken = np.zeros(scores.shape, np.bool_)
    queries = []
    for score, label in zip(found.scores, found.indices, strict=True):
        distance = np.abs(scores[:, label] - score) + taken[:, label]
        query = int(distance.argmin())
        taken[query, label] = True
        queries.append(query)
    return np.array(queries, np.int64)


def _heat(
    points: NDArray[np.float32], weights: NDArray[np.float32], places: Places, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Maps (N, h, w) of points in pixels of a picture of (height, width) ``size``."""
    from scipy.ndimage import gaussian_filter

    factor = min(1.0, _LONGEST / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    heat = np.zeros((len(points), height, width), np.float32)
    scale = np.array([width / size[1], height / size[0]])
    for index, (own, shares) in enumerate(zip(points, weights, strict=True)):
        cells = np.floor(own * scale).astype(np.int64)
        inside = ((cells >= 0) & (cells < (width, height))).all(axis=1)
        for level, (rows, columns) in enumerate(places.shapes):
            chosen = inside & (places.levels == level)
            if not chosen.any():
                continue
            layer = np.zeros((height, width), np.float32)
            np.add.at(layer, (cells[chosen, 1], cells[chosen, 0]), shares[chosen])
            # At the border what would be spread outside stays inside ("reflect"): nothing of a weight is lost.
            heat[index] += gaussian_filter(layer, (height / rows / 2, width / columns / 2), mode="reflect")
    return heat


def _over(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A picture, grey where nothing looked, under a map of 0 to 1."""
    size = (image.shape[1], image.shape[0])
    wide = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    share = np.clip(wide, 0, 1)
    stops = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(share, stops, channel) for channel in _COLOURS.T], axis=-1)
    opacity = _OPACITY * np.sqrt(share)[..., None]
    return np.clip(image * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)
