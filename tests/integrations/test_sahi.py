"""Detectors as SAHI's models, run by SAHI itself."""

from __future__ import annotations

import numpy as np
import pytest

from flexdetr.classes import Classes
from flexdetr.runtime.detections import Detections

pytest.importorskip("sahi")
from sahi.predict import get_prediction, get_sliced_prediction

from flexdetr.integrations.sahi import FlexDetrModel


class Bright:
    """Finds the one bright square in a picture, if it is whole there."""

    classes = Classes(("cat", "dog"), (1, 7))

    def predict(self, source, threshold):
        assert threshold == 0.3
        one = [self._found(image) for image in (source if isinstance(source, list) else [source])]
        return one if isinstance(source, list) else one[0]

    def _found(self, image):
        rows, columns = np.nonzero(image[:, :, 0] > 128)
        if not len(rows):
            return Detections.empty(size=image.shape[:2])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections([box], [0.9], [7], ["dog"], [1], size=image.shape[:2])


@pytest.fixture
def model() -> FlexDetrModel:
    return FlexDetrModel(model=Bright(), confidence_threshold=0.3, device="cpu")


def test_a_picture(model):
    image = np.zeros((60, 80, 3), np.uint8)
    image[10:20, 30:50] = 255
    (found,) = get_prediction(image, model).object_prediction_list
    assert found.bbox.to_xyxy() == [30, 10, 50, 20]
    assert (found.category.id, found.category.name) == (7, "dog")
    assert found.score.value == pytest.approx(0.9)
    assert (model.num_categories, model.category_names, model.has_mask) == (2, ["cat", "dog"], False)


def test_tiles_come_back_in_pixels_of_the_picture(model):
    image = np.zeros((200, 300, 3), np.uint8)
    image[150:170, 230:250] = 255
    options = {"slice_height": 128, "slice_width": 128, "verbose": 0}
    (found,) = get_sliced_prediction(image, model, **options).object_prediction_list
    assert found.bbox.to_xyxy() == [230, 150, 250, 170]


def test_a_detector_and_nothing(tmp_path):
    from flexdetr import Detector

    path = Detector("flexdetr_pico", classes={3: "cat"}, image_size=64).save(tmp_path / "a.safetensors")
    model = FlexDetrModel(str(path), confidence_threshold=0.0, device="cpu")
    result = get_prediction(np.zeros((64, 64, 3), np.uint8), model)
    assert {one.category.id for one in result.object_prediction_list} == {3}
    with pytest.raises(ValueError, match="needs model_path"):
        FlexDetrModel()
