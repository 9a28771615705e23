"""A detector in tiles does what the detector does, where the picture is larger than what it sees well."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.data.images import ImageError
from flexdetr.pixel_form import RGB
from flexdetr.runtime.detections import Detections
from flexdetr.runtime.slicing import Slicing
from flexdetr.runtime.sources import Unreadable, find
from flexdetr.sliced import SlicedDetector


class Nearsighted:
    """Finds white squares exactly, but none whose side is below a tenth of the picture's."""

    classes = Classes(("square",), (7,))
    form = RGB

    class metadata:  # noqa: N801 - as an artifact's
        made: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[tuple[int, dict]] = []

    def predict(self, source, *_threshold, **options):
        self.asked.append((len(source), options))
        return [self._found(image) for image in source]

    def _found(self, image):
        white = image[..., 0] > 128
        boxes = []
        while white.any():
            top, left = np.argwhere(white)[0]
            bottom = top + int(np.argmin(np.append(white[top:, left], False)))
            right = left + int(np.argmin(np.append(white[top, left:], False)))
            white[top:bottom, left:right] = False
            if min(bottom - top, right - left) >= 0.1 * min(image.shape[:2]):
                boxes.append([left, top, right, bottom])
        count = len(boxes)
        size = image.shape[:2]
        return Detections(boxes, [0.9] * count, [7] * count, ["square"] * count, [0] * count, size=size)


SQUARES = [[10, 10, 26, 26], [300, 40, 318, 58], [100, 200, 220, 320], [371, 371, 390, 390]]


@pytest.fixture
def data(tmp_path):
    """One picture of 400x400 with a large and three small squares, labelled."""
    image = np.zeros((400, 400, 3), np.uint8)
    for x0, y0, x1, y1 in SQUARES:
        image[y0:y1, x0:x1] = 255
    folder = tmp_path / "test"
    folder.mkdir()
    Image.fromarray(image).save(folder / "a.png")
    boxes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in SQUARES]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 7, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(boxes, start=1)
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 400}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "square"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_test.json").write_text(json.dumps(document))
    return tmp_path


def test_small_objects_are_found_in_tiles_and_large_ones_in_the_whole(data):
    near = Nearsighted()
    file = data / "test" / "a.png"
    assert near.predict([np.asarray(Image.open(file))])[0].boxes_xyxy.tolist() == [SQUARES[2]]
    sliced = SlicedDetector(near, Slicing(96, 0.25))
    found = sliced.predict(str(file), 0.4, device="cpu")
    assert sorted(found.boxes_xyxy.tolist()) == sorted(SQUARES)
    assert near.asked[-1] == (37, {"device": "cpu"})  # 6x6 tiles and the whole, in one call
    (again,) = sliced.predict([file])
    assert sorted(again.boxes_xyxy.tolist()) == sorted(SQUARES)
    with pytest.raises(ImageError):
        sliced.predict(str(data / "none.png"))


def test_the_gain_is_measured(data):
    seen = []
    near = Nearsighted()
    metrics = SlicedDetector(near, 96).evaluate(data, "test", progress=lambda *count: seen.append(count))
    assert (metrics.ap, metrics.ap_small) == (pytest.approx(1), pytest.approx(1))
    assert seen == [(1, 1)]
    assert near.asked[-1][1] == {"precision": "fp32"}
    coarse = SlicedDetector(near, 400).evaluate(data, "test")
    assert coarse.ap_small == 0


def test_many_pictures_and_what_cannot_be_read(data):
    (data / "test" / "b.png").write_text("no picture")
    sliced = SlicedDetector(Nearsighted(), 96)
    good, bad = sliced.predict_many(find(data / "test"), 0.4)
    assert len(good[1]) == 4
    assert isinstance(bad, Unreadable)
    assert repr(sliced).startswith("<SlicedDetector 96x96, overlap 0.2, of ")
    assert sliced.classes.ids == (7,)
