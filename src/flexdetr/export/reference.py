"""What an artifact is compared with: the PyTorch model, and pictures to run both on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.config import Config
from flexdetr.data.check import read_as
from flexdetr.data.dataset import Record
from flexdetr.data.record_pixels import read_record
from flexdetr.data.scenes import draw_scene
from flexdetr.model.detector import DetectionModel
from flexdetr.model.postprocess import detections
from flexdetr.pixel_form import PixelForm
from flexdetr.runtime.arrays import as_picture
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.process import prepare

PICTURES = 8
SCORED = 100
# Two tokens whose class logits are closer than this may change places where the best are selected: no arithmetic
# decides between them, and the other choice is as right.
TIE = 1e-4
_DRAWN_SIZES = ((320, 320), (240, 426), (480, 360), (333, 500))


@dataclass(frozen=True)
class Pictures:
    """What a proof runs on.

    Attributes:
        images: (H, W, 3) uint8 RGB each, to compare detections on.
        records: labelled pictures to take the AP on; none without data.
        source: where they come from, in words.
    """

    images: tuple[NDArray[np.uint8], ...]
    records: tuple[Record, ...] = ()
    source: str = ""


def pictures_of(
    data: str | Path | None,
    classes: Classes,
    config: Config,
    *,
    count: int = PICTURES,
    scored: int = SCORED,
) -> Pictures:
    """Pictures of a data set's validation split (or test, or training); drawn ones without data.

    Raises:
        DataError: if the data cannot be used.
        ImageError: if a picture cannot be read.
    """
    if data is None:
        drawn = [
            draw_scene(np.random.default_rng(i), _DRAWN_SIZES[i % len(_DRAWN_SIZES)]) for i in range(count)
        ]
        return Pictures(
            tuple(_in_channels(scene.image, config.data.form) for scene in drawn),
            source=f"{count} drawn scenes",
        )
    dataset = read_as(config, data, classes)
    split = next(name for name in ("val", "test", "train") if dataset.splits.get(name))
    records = dataset.split(split)[:scored]
    images = tuple(read_record(record) for record in records[:count])
    return Pictures(images, records, f"{len(images)} pictures of {data}, split {split}")


def _in_channels(image: NDArray[np.uint8], form: PixelForm) -> NDArray[np.uint8]:
    """A drawn picture with as many channels as a detector takes: its colours in turn."""
    if form.photographic:
        return as_picture(image, PixelForm(form.channels))
    return np.ascontiguousarray(image[:, :, np.arange(form.channels) % 3])


@dataclass(frozen=True)
class Reference:
    """The PyTorch model as the artifact should behave: in float32 on the CPU, with numpy's post-processing.

    The detector is as it was trained, not fused, on the CPU and in evaluation mode; ``size`` is the (height,
    width) that the network sees. None runs or selects the configured number of layers and queries.
    """

    model: DetectionModel
    classes: Classes
    size: tuple[int, int]
    decoder_layers: int | None = None
    queries: int | None = None

    def at(self, size: tuple[int, int]) -> Self:
        """The same model at another size."""
        return replace(self, size=size)

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8]) -> Detections:
        """All detections of an image, however low their score."""
        model = self.model
        planes = model.normalise(torch.from_numpy(prepare(image, self.size))[None])
        output = model(planes, decoder_layers=self.decoder_layers, queries=self.queries)
        size = image.shape[0], image.shape[1]
        return detections(model.head, output.final, size, self.classes)

    def tied(self, image: NDArray[np.uint8]) -> bool:
        """Whether the last selected query and the first one that is not have the same score, but for rounding."""
        seen: list[torch.Tensor] = []
        head = self.model.head
        if not head.selector:
            return False
        selector = head.get_submodule(head.selector)
        with selector.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
            self.predict(image)
        best = seen[0][0].amax(-1).sort(descending=True).values
        count = self.queries or head.queries
        return len(best) > count and float(best[count - 1] - best[count]) < TIE
