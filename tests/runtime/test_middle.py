"""What a classifier is shown: the middle that torchvision takes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from flexdetr.data.scenes import draw_scene
from flexdetr.runtime.middle import middle
from flexdetr.runtime.process import resize


@pytest.mark.parametrize(
    ("shape", "top", "left", "side"),
    [((240, 320), 15, 55, 210), ((320, 240), 55, 15, 210), ((100, 100), 6, 6, 88), ((1, 9), 0, 4, 1)],
)
def test_the_square_in_the_middle(shape: tuple[int, int], top: int, left: int, side: int) -> None:
    image = np.arange(shape[0] * shape[1] * 3, dtype=np.int64).reshape(*shape, 3)
    assert np.array_equal(middle(image), image[top : top + side, left : left + side])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(330, 470), (512, 300)])
def test_is_what_torchvision_shows(shape: tuple[int, int]) -> None:
    """Shorter side to 256, then the 224 in the middle: the same place, resized once here and before the cut there."""
    image = draw_scene(np.random.default_rng(0), shape).image
    usual = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    want = np.asarray(usual(Image.fromarray(image)), np.float64)
    found = resize(np.ascontiguousarray(middle(image)), (224, 224)).astype(np.float64)
    whole = resize(image, (224, 224)).astype(np.float64)
    assert np.abs(found - want).mean() < 3
    assert np.abs(whole - want).mean() > 3 * np.abs(found - want).mean()
