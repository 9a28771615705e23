"""The objects found in one image: aligned numpy arrays that can be indexed and written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CSV_HEADER = ("image", "name", "label", "score", "x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first; all fields are aligned and cannot be written to.

    Attributes:
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels of the original image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, the data set's own class ids.
        names: N class names.
        indices: (N,) int64, indices of the classes in the model's head.
        image_id: the image's id or path, if known.
        size: (height, width) of the original image in pixels, if known.

    Raises:
        ValueError: if the fields differ in length or a box does not have four numbers.

    Example:
        >>> found = Detections([[2, 3, 12, 23]], [0.9], [7], ["cat"], [0])
        >>> len(found), found.names, found[found.scores > 0.95].names
        (1, ['cat'], [])
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]
    indices: NDArray[np.int64]
    image_id: int | str | None = field(default=None, kw_only=True)
    size: tuple[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes_xyxy", _frozen(self.boxes_xyxy, np.float32, columns=4))
        object.__setattr__(self, "scores", _frozen(self.scores, np.float32))
        object.__setattr__(self, "labels", _frozen(self.labels, np.int64))
        object.__setattr__(self, "indices", _frozen(self.indices, np.int64))
        object.__setattr__(self, "names", [str(name) for name in self.names])
        lengths = {
            name: len(getattr(self, name)) for name in ("boxes_xyxy", "scores", "labels", "names", "indices")
        }
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise ValueError(f"the fields of Detections must have one entry per object, got {counts}")

    @classmethod
    def empty(cls, *, image_id: int | str | None = None, size: tuple[int, int] | None = None) -> Detections:
        """Detections of an image in which nothing was found."""
        none = np.zeros(0)
        return cls(np.zeros((0, 4), np.float32), none, none, [], none, image_id=image_id, size=size)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detections]:
        """Each object in turn, as Detections of length one."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, item: int | slice | Sequence[int] | NDArray[Any]) -> Detections:
        """Some of the objects: by position, slice, list of positions or boolean mask.

        Raises:
            IndexError: if a position, or the mask's length, is out of range.
        """
        # An index array serves all four kinds, and turns a single position into Detections of length one.
        chosen = np.atleast_1d(np.arange(len(self))[item])
        return Detections(
            self.boxes_xyxy[chosen],
            self.scores[chosen],
            self.labels[chosen],
            [self.names[i] for i in chosen],
            self.indices[chosen],
            image_id=self.image_id,
            size=self.size,
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary an object: ``name``, ``label``, ``score`` and ``box_xyxy`` in pixels."""
        return [
            {"name": name, "label": label, "score": round(score, 6), "box_xyxy": [round(x, 3) for x in box]}
            for name, label, score, box in zip(
                self.names,
                self.labels.tolist(),
                self.scores.tolist(),
                self.boxes_xyxy.tolist(),
                strict=True,
            )
        ]

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """COCO's results format: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.

        Args:
            image_id: the image's id in the annotation file; by default that of these detections.

        Raises:
            ValueError: if no image id is known.
        """
        image_id = self.image_id if image_id is None else image_id
        if image_id is None:
            raise ValueError("COCO results need an image id: call to_coco(image_id=...)")
        boxes = self.boxes_xyxy.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            for label, box, score in zip(
                self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True
            )
        ]

    def to_csv_rows(self, image: int | str | None = None) -> list[tuple[Any, ...]]:
        """Rows in the order of ``CSV_HEADER``: image, name, label, score, x1, y1, x2, y2.

        Args:
            image: what to write in the first column; by default the image id, or nothing if there is none.
        """
        image = self.image_id if image is None else image
        return [
            ("" if image is None else image, row["name"], row["label"], row["score"], *row["box_xyxy"])
            for row in self.to_json()
        ]

    def to_supervision(self) -> Any:  # noqa: ANN401 - the type belongs to an optional package
        """The same objects as ``supervision.Detections``, with ``class_name`` among its data.

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
            xyxy=self.boxes_xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )


def _frozen(values: ArrayLike, dtype: type[np.generic], columns: int = 0) -> NDArray[Any]:
    """A read-only copy of the values, (N,) or (N, columns)."""
    array = np.array(values, dtype=dtype)
    if columns and array.size == 0:
        array = array.reshape(0, columns)
    if array.ndim != (2 if columns else 1) or (columns and array.shape[1] != columns):
        wanted = f"(N, {columns})" if columns else "(N,)"
        raise ValueError(f"a field of Detections has shape {array.shape}, expected {wanted}")
    array.setflags(write=False)
    return array
