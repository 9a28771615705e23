"""A stand-in for a detector: what it finds is written in the picture's pixels, so that answers cannot be mixed up."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.pixel_form import RGB
from flexdetr.runtime.detections import Detections


class Marked:
    """Finds one object of class "dog" in a picture: its box is the picture, its score the first pixel's red."""

    classes = Classes(("cat", "dog"), (1, 7))
    form = RGB

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def predict(self, source, threshold=0.4):
        assert threshold == 0
        self.batches.append(len(source))
        assert self.go.wait(20)
        return [self._found(image) for image in source]

    def _found(self, image):
        if image[0, 0, 1] == 255:
            raise RuntimeError("this picture breaks the detector")
        height, width = image.shape[:2]
        score = image[0, 0, 0] / 255
        return Detections([[0, 0, width, height]], [score], [7], ["dog"], [1], size=(height, width))


@pytest.fixture
def detector() -> Marked:
    return Marked()


@pytest.fixture
def picture():
    """``picture(red, size)``: a PNG's bytes."""

    def make(red=204, size=(40, 30), green=0, kind="PNG", **options) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((size[1], size[0], 3), (red, green, 0), np.uint8)).save(
            buffer, kind, **options
        )
        return buffer.getvalue()

    return make
