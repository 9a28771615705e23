"""Which way a page lies: the four classes, and how a page is turned; numpy only.

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


def turned(image: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """A picture turned clockwise.

    The picture is any (H, W, ...); negative quarter turns are counter-clockwise.

    Returns:
        The pixels in their new places, none of them changed.

    Example:
        >>> turned(np.array([[1, 2], [3, 4]], np.uint8), 1).tolist()
        [[3, 1], [4, 2]]
    """
    return np.ascontiguousarray(np.rot90(image, -turns))
