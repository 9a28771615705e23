"""Found objects as a table of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexdetr.runtime.detections import Detections


def data_frame(found: Detections) -> Any:  # noqa: ANN401 - the type belongs to an optional package
    """A ``pandas.DataFrame`` with a row for each object; see ``Detections.to_pandas``.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install 'flexdetr[pandas]'") from error
    sides = dict(zip(("x1", "y1", "x2", "y2"), found.boxes_xyxy.T, strict=True))
    columns: dict[str, Any] = {
        "image": [found.image_id] * len(found),
        "name": found.names,
        "label": found.labels,
        "score": found.scores,
        **sides,
    }
    if found.tracker_id is not None:
        columns["tracker_id"] = found.tracker_id
    columns |= {name: values for name, values in found.data.items() if values.ndim == 1}
    return pandas.DataFrame(columns)
