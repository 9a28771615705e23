"""Detect in single images with the torch model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.engine.device import arithmetic, autocast, choose_device, choose_precision
from flexdetr.model.detector import DetectionModel
from flexdetr.model.outputs import Prediction
from flexdetr.model.postprocess import detections
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.process import prepare


@torch.inference_mode()
def detect_images(
    model: DetectionModel,
    images: Iterable[NDArray[np.uint8]],
    *,
    classes: Classes,
    size: tuple[int, int],
    threshold: float | Sequence[float],
    device: str = "auto",
    precision: str = "auto",
    decoder_layers: int | None = None,
    queries: int | None = None,
) -> Iterator[Detections]:
    """The objects of each image, one image at a time.

    See ``Detector.predict``; ``size`` is the (height, width) that the network sees.

    Yields:
        Detections in pixels of each original image.
    """
    if not all(0 <= limit <= 1 for limit in np.atleast_1d(threshold)):
        raise ValueError(f"the threshold must be between 0 and 1; got {threshold}")
    place = choose_device(device)
    model.eval().to(place)
    for image in images:
        prediction = run_network(
            model,
            prepare(image, size),
            place,
            precision=precision,
            decoder_layers=decoder_layers,
            queries=queries,
        )
        yield detections(model.head, prediction, (image.shape[0], image.shape[1]), classes, threshold)


@torch.inference_mode()
def run_network(
    model: DetectionModel,
    planes: NDArray[np.uint8],
    place: torch.device,
    *,
    precision: str = "auto",
    decoder_layers: int | None = None,
    queries: int | None = None,
) -> Prediction:
    """What the network answers for one image, without post-processing.

    The model is in evaluation mode and on ``place``; ``planes`` are (3, H, W) uint8 RGB in the network's size.

    Returns:
        The prediction for a batch of this image.
    """
    batch = torch.from_numpy(planes)[None].to(place)
    with arithmetic(place), autocast(place, choose_precision(precision, place)):
        output = model(model.normalise(batch), decoder_layers=decoder_layers, queries=queries)
    prediction: Prediction = output.final
    return prediction
