"""Training samples of pages in their four turns: squares cut out of them, in other colours; nothing is mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from flexdetr.config import ConfigError, DataConfig
from flexdetr.data.batches import BatchPlan, BatchSample, Phase
from flexdetr.data.class_samples import whole
from flexdetr.data.dataset import Record
from flexdetr.data.kept import RecordImages
from flexdetr.data.transforms import Sample, Window, draw_colours, render
from flexdetr.runtime.middle import middle, middle_square

# The side of a square, as a share of the page's shorter side: evaluation takes 7/8 of it, in the middle.
_SIDES: Final = (0.6, 0.95)
_LIGHT_ON_DARK: Final = 0.1  # share of samples whose colours are turned into their opposites
_SAMPLE_STREAM: Final = 4  # beside those of ``flexdetr.data.batches`` and ``class_samples``


class PageSamples:
    """Makes an orientation classifier's training samples; the same for the same seed, epoch and page, always.

    ``plain``: what an evaluation sees, the middle of the page. Other phases: a square of another size anywhere on the
    page (``data.iou_crop`` is its probability), in other colours.

    Raises:
        ConfigError: if pages would be mirrored or blended.
    """

    def __init__(
        self, records: Sequence[Record], config: DataConfig, image_size: tuple[int, int], seed: int
    ) -> None:
        for key in ("flip", "mosaic", "mixup"):
            if value := getattr(config, key):
                raise ConfigError(
                    f"data.{key}={value:g}: a page that is mirrored or blended lies in no direction; set it to 0"
                )
        self.images = RecordImages(records, image_size)
        self.records: Sequence[Record] = records
        self.config, self.seed = config, seed

    def make(self, plan: BatchPlan, slot: int, index: int) -> BatchSample:  # noqa: ARG002 - as others
        """See ``flexdetr.tasks.Samples``."""
        page = self.sample(index, plan.epoch, plan.phase, plan.size)
        return BatchSample(page, torch.from_numpy(self.records[index].labels), whole(1))

    def sample(self, index: int, epoch: int, phase: Phase, size: tuple[int, int]) -> NDArray[np.uint8]:
        """One sample, (height, width, 3) of exactly ``size``."""
        rng = np.random.default_rng([self.seed, epoch, _SAMPLE_STREAM, index])
        page = self.images.get(index)
        if phase == "plain":
            seen = middle(page)
            return render(_bare(seen), Window(0, 0, seen.shape[1], seen.shape[0]), size).image
        window = _square(page.shape[0], page.shape[1], rng, self.config.iou_crop)
        done = render(_bare(page), window, size, colours=draw_colours(rng, self.config.photometric)).image
        return 255 - done if rng.random() < _LIGHT_ON_DARK else done


def _bare(image: NDArray[np.uint8]) -> Sample:
    return Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def _square(height: int, width: int, rng: np.random.Generator, share: float) -> Window:
    """A square of a drawn size anywhere on the page; with a probability of 1 - ``share`` the middle."""
    if rng.random() >= share:
        top, left, side = middle_square(height, width)
    else:
        side = max(1, round(min(height, width) * rng.uniform(*_SIDES)))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return Window(left, top, left + side, top + side)
