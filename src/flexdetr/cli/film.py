"""An annotated film."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.films import USUAL_RATE

if TYPE_CHECKING:
    from flexdetr.runtime.sources import Picture


class Film:
    """A film that is written frame by frame, as MPEG-4 without sound; needs OpenCV.

    Args:
        path: its file, which is there whole when it is closed.
        of: the film that it is drawn of.
        first: the first frame, whose size and rate it has. MPEG-4 has even sides: of an odd one a row is left out.
    """

    def __init__(self, path: Path, of: str, first: Picture) -> None:
        import cv2

        self.path, self.of, self._shape = path, of, first.image.shape
        height, width = first.image.shape[:2]
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer: Any = cv2.VideoWriter(str(path), code, first.rate or USUAL_RATE, (width, height))

    @property
    def opened(self) -> bool:
        """Whether it can be written."""
        return bool(self._writer.isOpened())

    def continues(self, of: str, shape: tuple[int, ...]) -> bool:
        """Whether a frame of this film and size belongs into it."""
        return self.of == of and self._shape == shape

    def add(self, image: NDArray[np.uint8]) -> None:
        """The next frame, (H, W, 3) uint8 RGB."""
        self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        """Write its end."""
        self._writer.release()
