from __future__ import annotations

import numpy as np
import pytest

from flexdetr.runtime.artifact import Input
from flexdetr.runtime.feeds import FeedError, check_feeds

FIXED = Input(size=(64, 96), resize="outside")
INSIDE = Input(size=(64, 96), resize="inside")
DYNAMIC = Input(size=(64, 96), resize="outside", dynamic_size=True, smallest=64)


def pictures(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def test_sizes_are_those_of_the_pictures_by_default() -> None:
    images, sizes = check_feeds(pictures(2, 50, 70, 3), None, INSIDE)
    assert images.shape == (2, 50, 70, 3)
    assert sizes.tolist() == [[50, 70], [50, 70]]
    assert sizes.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "takes", "said"),
    [
        (pictures(1, 64, 96, 3).astype(np.float32), FIXED, "uint8 pictures (0 to 255); got float32"),
        (pictures(64, 96, 3), FIXED, "needs a batch axis: image[None]"),
        (pictures(1, 3, 64, 96), FIXED, "images.transpose(0, 2, 3, 1)"),
        (pictures(0, 64, 96, 3), FIXED, "(B, 64, 96, 3); got (0, 64, 96, 3)"),
        (pictures(1, 96, 64, 3), FIXED, "resize them first"),
        (pictures(1, 0, 64, 3), INSIDE, "(B, H, W, 3)"),
        (pictures(1, 64, 100, 3), DYNAMIC, "divisible by 32"),
        (pictures(1, 32, 96, 3), DYNAMIC, "at least 64"),
        ("cell.jpg", FIXED, "uint8"),
    ],
)
def test_pictures_that_do_not_fit(images: object, takes: Input, said: str) -> None:
    with pytest.raises(FeedError) as caught:
        check_feeds(images, None, takes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes", [[[64, 96]], [64, 96], [[64.0, 96.0], [1.0, 1.0]], [[64, 96], [0, 5]], [[-1, 2], [3, 4]]]
)
def test_sizes_that_do_not_fit(sizes: object) -> None:
    with pytest.raises(FeedError, match="sizes must be"):
        check_feeds(pictures(2, 64, 96, 3), np.array(sizes), FIXED)
