"""FlexDETR's detectors as models of SAHI (sliced inference): needs ``pip install 'flexdetr[sahi]'``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sahi.models.base import DetectionModel as SahiModel
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list


class FlexDetrModel(SahiModel):
    """A detector for ``sahi.predict.get_sliced_prediction`` and SAHI's other functions.

    ``Detector.predict(image, slice=640)`` does the same without SAHI; this is for pipelines that are built on it.

    Args:
        model_path: a checkpoint or an artifact; not needed where ``model`` is given.
        model: what ``flexdetr.load`` gave.
        **options: SAHI's own: ``confidence_threshold``, ``device``, ``category_remapping`` ...

    Example:
        >>> from sahi.predict import get_sliced_prediction  # doctest: +SKIP
        >>> model = FlexDetrModel("cells-openvino", confidence_threshold=0.4)  # doctest: +SKIP
        >>> get_sliced_prediction("slide.jpg", model, slice_height=640, slice_width=640)  # doctest: +SKIP
    """

    category_mapping: dict[str, str] | None

    def __init__(self, model_path: str | None = None, model: Any = None, **options: Any) -> None:  # noqa: ANN401
        if model_path is None and model is None:
            raise ValueError("FlexDetrModel needs model_path, a checkpoint or an artifact, or a model")
        super().__init__(model_path=model_path, model=model, **options)

    def load_model(self) -> None:
        """Load the checkpoint or artifact."""
        from flexdetr.loading import load

        self.set_model(load(str(self.model_path)))

    def set_model(self, model: Any, **_: Any) -> None:  # noqa: ANN401
        """Take a detector, and its classes as the categories: the data set's own ids and names."""
        self.model = model
        self._names = {str(row["id"]): str(row["name"]) for row in model.classes.to_json()}
        self.category_mapping = self.category_mapping or self._names

    @property
    def category_names(self) -> list[str]:
        """The classes' names."""
        return list(self._names.values())

    @property
    def num_categories(self) -> int:
        """How many classes there are."""
        return len(self._names)

    @property
    def has_mask(self) -> bool:
        """Detectors find boxes."""
        return False

    def perform_inference(self, image: NDArray[np.uint8]) -> None:
        """Find objects in one picture, (H, W, 3) uint8 RGB."""
        self._original_predictions = [
            self.model.predict(np.ascontiguousarray(image), self.confidence_threshold)
        ]

    def perform_batch_inference(self, images: list[NDArray[np.uint8]]) -> None:
        """Find objects in several pictures together."""
        pictures = [np.ascontiguousarray(image) for image in images]
        self._original_predictions = self.model.predict(pictures, self.confidence_threshold)
        self._batch_images = None

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[float]] | None = None,
        full_shape_list: list[list[float]] | None = None,
    ) -> None:
        shifts = fix_shift_amount_list([[0, 0]] if shift_amount_list is None else shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list)
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=box,
                    category_id=label,
                    category_name=self._names[str(label)],
                    score=score,
                    shift_amount=shifts[place],
                    full_shape=None if shapes is None else shapes[place],
                )
                for box, label, score in zip(
                    found.boxes_xyxy.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                )
                if box[2] > box[0] and box[3] > box[1]  # SAHI refuses boxes without an area
            ]
            for place, found in enumerate(self._original_predictions)
        ]
