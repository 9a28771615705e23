"""Which way a page lies: the four classes, what a classifier sees of a page, and how a page is turned; numpy only.

A page's class is the angle, in degrees clockwise, by which it was turned away from upright: of class 90 is a page whose
top is at the right. Turning it by as much counter-clockwise sets it upright.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import Classes

ORIENTATIONS: Final = Classes(("0", "90", "180", "270"), (0, 90, 180, 270))
"""The classes; their ids are the angles."""

# PULC's text-image-orientation: the shorter side at 256 pixels, and of that the square of 224 in the middle.
_SEEN: Final = 224 / 256


def turned(image: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """A picture turned clockwise.

    Args:
        image: (H, W, 3) uint8, or any (H, W, ...).
        turns: quarter turns; negative ones turn counter-clockwise.

    Returns:
        The pixels in their new places, none of them changed.

    Example:
        >>> turned(np.array([[1, 2], [3, 4]], np.uint8), 1).tolist()
        [[3, 1], [4, 2]]
    """
    return np.ascontiguousarray(np.rot90(image, -turns))


def middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the middle of a page that a classifier looks at: 7/8 of the shorter side.

    The square is the same one whichever way the page lies, but for one pixel where sides are odd.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        A view of it, (S, S, 3); at least one pixel.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * _SEEN))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]
