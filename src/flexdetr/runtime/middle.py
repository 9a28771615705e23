"""What a classifier is shown of a picture: the square in its middle; numpy only."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

SEEN: Final = 224 / 256
"""The square's side as a share of the picture's shorter one: torchvision, timm and PaddleClas (PULC too) bring the
shorter side to 256 pixels and take the 224 in the middle."""


def middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the middle of a picture that a classifier looks at: 7/8 of the shorter side.

    Of a page the square is the same one whichever way it lies, but for one pixel where sides are odd.

    Returns:
        A view of it, (S, S, 3); at least one pixel.

    Example:
        >>> middle(np.zeros((240, 320, 3), np.uint8)).shape
        (210, 210, 3)
    """
    top, left, side = middle_square(image.shape[0], image.shape[1])
    return image[top : top + side, left : left + side]


def middle_square(height: int, width: int) -> tuple[int, int, int]:
    """Where the square in the middle is: its first row, its first column and its side, in pixels."""
    side = max(1, round(min(height, width) * SEEN))
    return (height - side) // 2, (width - side) // 2, side
