"""Found objects as roboflow's supervision has them, which draws, tracks and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flexdetr.classes import Classes
    from flexdetr.runtime.detections import Detections


def written(found: Detections) -> Any:  # noqa: ANN401 - the type belongs to an optional package
    """``supervision.Detections`` of the same objects; the arrays are copies, since supervision writes into its own.

    Raises:
        ImportError: if supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError(
            "to_supervision() needs the supervision package: pip install 'flexdetr[supervision]'"
        ) from error
    return supervision.Detections(
        xyxy=found.boxes_xyxy.copy(),
        mask=None if found.masks is None else found.masks.copy(),
        confidence=found.scores.copy(),
        class_id=found.labels.astype(int),
        tracker_id=None if found.tracker_id is None else found.tracker_id.astype(int),
        data={
            **{name: values.copy() for name, values in found.data.items()},
            "class_name": np.array(found.names, dtype=str),
            "class_index": found.indices.copy(),
        },
    )


def fields(found: Any, classes: Classes | None) -> dict[str, Any]:  # noqa: ANN401 - as above
    """What ``Detections`` takes, from ``supervision.Detections``; see ``Detections.from_supervision``.

    Raises:
        ValueError: if there are no class ids, or nothing tells the classes' names.
        ClassError: if an id is none of ``classes``.
    """
    count = len(found.xyxy)
    if count and found.class_id is None:
        raise ValueError("the objects have no class_id: set it before from_supervision()")
    labels = np.zeros(0, np.int64) if found.class_id is None else np.asarray(found.class_id, np.int64)
    data = dict(found.data)
    names, indices = data.pop("class_name", None), data.pop("class_index", None)
    if classes is not None and (names is None or indices is None):
        indices = [classes.index_of_id(label) for label in labels.tolist()]
        names = [classes.names[index] for index in indices]
    if count and (names is None or indices is None):
        lacking = "class_name" if names is None else "class_index"
        raise ValueError(f"the objects have no {lacking} in their data: give from_supervision(classes=...)")
    return {
        "boxes_xyxy": found.xyxy,
        "scores": np.ones(count) if found.confidence is None else found.confidence,
        "labels": labels,
        "names": [] if names is None else [str(name) for name in names],
        "indices": labels if indices is None else indices,
        "tracker_id": found.tracker_id,
        "masks": found.mask,
        "data": data,
    }
