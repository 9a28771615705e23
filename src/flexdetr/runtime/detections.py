"""The objects found in one image: aligned numpy arrays that can be indexed and written out."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flexdetr import draw
from flexdetr.runtime import annotation_tools, data_frames, supervision_objects
from flexdetr.runtime.frozen_arrays import frozen_array, frozen_data, frozen_masks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from PIL import Image

    from flexdetr.classes import Classes

CSV_HEADER = ("image", "name", "label", "score", "x1", "y1", "x2", "y2")
_CLASSES_SHOWN = 5
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


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
        tracker_id: (N,) int64, each object's number over the frames of a sequence, -1 if a tracker gave none; None
            if nothing was tracked.
        masks: (N, height, width) bool, the pixels of each object; None from detectors of boxes.
        data: further aligned arrays by name, each with one entry per object.

    Raises:
        ValueError: if the fields differ in length or shape.

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
    tracker_id: NDArray[np.int64] | None = field(default=None, kw_only=True)
    masks: NDArray[np.bool_] | None = field(default=None, kw_only=True)
    data: Mapping[str, NDArray[Any]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes_xyxy", frozen_array(self.boxes_xyxy, np.float32, columns=4))
        object.__setattr__(self, "scores", frozen_array(self.scores, np.float32))
        object.__setattr__(self, "labels", frozen_array(self.labels, np.int64))
        object.__setattr__(self, "indices", frozen_array(self.indices, np.int64))
        object.__setattr__(self, "names", [str(name) for name in self.names])
        if self.tracker_id is not None:
            object.__setattr__(self, "tracker_id", frozen_array(self.tracker_id, np.int64))
        if self.masks is not None:
            object.__setattr__(self, "masks", frozen_masks(self.masks, self.size))
        data = {str(name): frozen_data(str(name), values) for name, values in self.data.items()}
        object.__setattr__(self, "data", MappingProxyType(data))
        lengths = {name: len(values) for name, values in self._aligned().items()}
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
            tracker_id=None if self.tracker_id is None else self.tracker_id[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            data={name: values[chosen] for name, values in self.data.items()},
        )

    def __repr__(self) -> str:
        """How many objects of which classes, of which picture, and the best score."""
        facts = [f"{count} {name}" for name, count in Counter(self.names).most_common(_CLASSES_SHOWN)]
        others = len(set(self.names)) - len(facts)
        facts += [f"{others} more classes"] if others > 0 else []
        what = ": " + ", ".join(facts) + f"; best score {self.scores.max():.2f}" if facts else ""
        of = "" if self.image_id is None else f" in {self.image_id!r}"
        of += "" if self.size is None else f" of {self.size[1]}x{self.size[0]}"
        return f"<Detections: {len(self)} object{'' if len(self) == 1 else 's'}{of}{what}>"

    @classmethod
    def concatenate(cls, parts: Iterable[Detections]) -> Detections:
        """The objects of several Detections in one, in the order in which they were given.

        ``image_id`` and ``size`` are kept where all parts agree about them. Parts without objects need no
        ``tracker_id``, ``masks`` or ``data``.

        Raises:
            ValueError: if only some parts with objects have a ``tracker_id``, ``masks``, or an array of ``data``.
        """
        every = list(parts)
        used = [part for part in every if len(part)]

        def shared(values: list[Any]) -> Any:  # noqa: ANN401 - an image's id or size
            return values[0] if values and all(value == values[0] for value in values) else None

        image_id, size = shared([one.image_id for one in every]), shared([one.size for one in every])
        if not used:
            return cls.empty(image_id=image_id, size=size)
        fields = [frozenset(part._aligned()) for part in used]
        if len(set(fields)) > 1:
            partly = ", ".join(sorted(frozenset.union(*fields) - frozenset.intersection(*fields)))
            raise ValueError(f"only some of the Detections have {partly}: give it to all of them, or to none")
        masks = [part.masks for part in used if part.masks is not None]
        if len({mask.shape[1:] for mask in masks}) > 1:
            raise ValueError("the masks of Detections of pictures of different sizes cannot be joined")
        tracks = [part.tracker_id for part in used if part.tracker_id is not None]
        return cls(
            np.concatenate([part.boxes_xyxy for part in used]),
            np.concatenate([part.scores for part in used]),
            np.concatenate([part.labels for part in used]),
            [name for part in used for name in part.names],
            np.concatenate([part.indices for part in used]),
            image_id=image_id,
            size=size,
            tracker_id=np.concatenate(tracks) if tracks else None,
            masks=np.concatenate(masks) if masks else None,
            data={name: np.concatenate([part.data[name] for part in used]) for name in used[0].data},
        )

    def only(self, *classes: str | int) -> Detections:
        """The objects of some classes.

        Args:
            *classes: class names, or the data set's own class ids.

        Example:
            >>> found = Detections([[0, 0, 9, 9], [5, 5, 8, 8]], [0.9, 0.7], [1, 2], ["cat", "dog"], [0, 1])
            >>> found.only("dog", "bird").names
            ['dog']
        """
        wanted = set(classes)
        return self[self._of_classes(wanted)]

    def without(self, *classes: str | int) -> Detections:
        """The objects of all other classes; ``classes`` as of ``only``."""
        return self[~self._of_classes(set(classes))]

    def best_first(self) -> Detections:
        """The same objects in the order of their scores, the highest first."""
        return self[np.argsort(-self.scores, kind="stable")]

    def crops(self, image: NDArray[np.uint8] | Image.Image, margin: float = 0.0) -> list[NDArray[np.uint8]]:
        """Each object cut out of its picture.

        Args:
            image: (H, W, 3) uint8 RGB, or a PIL image: the one that was predicted on.
            margin: what to add on each side, as a share of the box's own width and height.

        Returns:
            An (h, w, 3) uint8 array for each object, a copy, cut off at the picture's borders. Of a box outside the
            picture, or of less than a pixel, the pixel nearest to it.
        """
        return draw.cut_out(image, self.boxes_xyxy, margin)

    def plot(self, image: NDArray[np.uint8] | Image.Image, *, scores: bool = True) -> Image.Image:
        """The picture with a box, name and score for each object, and its tracker id where there is one.

        Args:
            image: (H, W, 3) uint8 RGB, or a PIL image: the one that was predicted on; it stays as it is.
            scores: whether to write the scores beside the names.
        """
        shown = self
        if self.tracker_id is not None:
            ids = self.tracker_id.tolist()
            names = [
                f"{name} #{number}" if number >= 0 else name
                for name, number in zip(self.names, ids, strict=True)
            ]
            shown = replace(self, names=names)
        return draw.annotate(image, shown, scores=scores)

    def save(self, path: str | Path, image: NDArray[np.uint8] | Image.Image | None = None) -> Path:
        """Write the objects to a file, in the form that its suffix names.

        Args:
            path: ``.json`` (as ``to_json``), ``.csv`` (``CSV_HEADER`` and a row for each object), ``.txt`` (YOLO's
                lines, as ``to_yolo``), or a picture's suffix: the picture with its boxes, as ``plot``.
            image: the picture, for a picture's suffix.

        Returns:
            The path.

        Raises:
            ValueError: if the suffix is another one, or the picture is not given.
            OSError: if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            path.write_text(json.dumps(self.to_json(), ensure_ascii=False), encoding="utf-8")
        elif suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([CSV_HEADER, *self.to_csv_rows()])
        elif suffix == ".txt":
            path.write_text("".join(f"{line}\n" for line in self.to_yolo()), encoding="utf-8")
        elif suffix in _PICTURES and image is not None:
            self.plot(image).save(path, quality=92)
        elif suffix in _PICTURES:
            raise ValueError(f"{path} is a picture: give the one to draw on, as save(path, image)")
        else:
            raise ValueError(
                f"{path}: Detections are saved as .json, .csv, .txt (YOLO) or a picture ({', '.join(_PICTURES)})"
            )
        return path

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary per object: ``name``, ``label``, ``score``, ``box_xyxy`` (pixels), ``tracker_id`` if any."""
        rows: list[dict[str, Any]] = [
            {"name": name, "label": label, "score": round(score, 6), "box_xyxy": [round(x, 3) for x in box]}
            for name, label, score, box in zip(
                self.names,
                self.labels.tolist(),
                self.scores.tolist(),
                self.boxes_xyxy.tolist(),
                strict=True,
            )
        ]
        if self.tracker_id is not None:
            for row, number in zip(rows, self.tracker_id.tolist(), strict=True):
                row["tracker_id"] = number
        return rows

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

    def to_yolo(self) -> list[str]:
        """A line per object as YOLO's label files have them: ``label cx cy w h``, fractions of the picture's sides.

        Raises:
            ValueError: if the picture's size is not known.
        """
        height, width = self._known_size("YOLO's labels")
        boxes = self.boxes_xyxy.astype(np.float64) / (width, height, width, height)
        return [
            f"{label} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}"
            for label, (x0, y0, x1, y1) in zip(self.labels.tolist(), boxes.tolist(), strict=True)
        ]

    def to_pandas(self) -> Any:  # noqa: ANN401 - the type belongs to an optional package
        """A ``pandas.DataFrame``, a row per object: ``CSV_HEADER``'s columns, ``tracker_id`` and flat ``data``.

        Raises:
            ImportError: if pandas is not installed.
        """
        return data_frames.data_frame(self)

    to_dataframe = to_pandas

    def to_supervision(self) -> Any:  # noqa: ANN401 - the type belongs to an optional package
        """The same objects as ``supervision.Detections``: ``class_name`` and ``class_index`` are among its data.

        Raises:
            ImportError: if supervision is not installed.
        """
        return supervision_objects.written(self)

    @classmethod
    def from_supervision(
        cls,
        found: Any,  # noqa: ANN401 - the type belongs to an optional package
        *,
        classes: Classes | None = None,
        image_id: int | str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Detections:
        """Detections from ``supervision.Detections``, the inverse of ``to_supervision``.

        Args:
            found: boxes in pixels with ``class_id``, the data set's own ids. Without ``confidence`` scores are 1.
            classes: gives names and indices where ``found.data`` has no ``class_name`` or ``class_index``.
            image_id: the image's id or path.
            size: (height, width) of the image.

        Raises:
            ValueError: if there are no class ids, or nothing tells the classes' names.
            ClassError: if an id is none of ``classes``.
        """
        return cls(**supervision_objects.fields(found, classes), image_id=image_id, size=size)

    def to_label_studio(self, image: str | None = None, *, model_version: str = "flexdetr") -> dict[str, Any]:
        """A task with a prediction, as Label Studio imports pre-annotations; see ``annotation_tools.label_studio``.

        Raises:
            ValueError: if neither ``image`` nor ``image_id`` names the picture, or its size is not known.
        """
        name = self._known_name(image, "Label Studio's tasks")
        return annotation_tools.label_studio(
            self.to_json(), name, self._known_size("Label Studio's tasks"), model_version
        )

    def to_cvat(self, image: str | None = None) -> str:
        """An XML document in the form "CVAT for images 1.1"; of several pictures: ``annotation_tools.cvat``.

        Raises:
            ValueError: if neither ``image`` nor ``image_id`` names the picture, or its size is not known.
        """
        name = self._known_name(image, "CVAT's documents")
        return annotation_tools.cvat([(name, self._known_size("CVAT's documents"), self.to_json())])

    def to_fiftyone(self) -> dict[str, Any]:
        """A field of FiftyOne's as JSON: ``Detections`` with boxes as fractions; see ``annotation_tools.fiftyone``.

        Raises:
            ValueError: if the picture's size is not known.
        """
        return annotation_tools.fiftyone(self.to_json(), self._known_size("FiftyOne's boxes"))

    def _aligned(self) -> dict[str, Sequence[Any] | NDArray[Any]]:
        """All fields with an entry per object, by name."""
        fields = {
            "boxes_xyxy": self.boxes_xyxy,
            "scores": self.scores,
            "labels": self.labels,
            "names": self.names,
            "indices": self.indices,
            **{name: getattr(self, name) for name in ("tracker_id", "masks")},
        }
        given = {name: values for name, values in fields.items() if values is not None}
        return {**given, **{f"data[{name!r}]": values for name, values in self.data.items()}}

    def _of_classes(self, wanted: set[str | int]) -> NDArray[np.bool_]:
        labels = self.labels.tolist()
        each = [name in wanted or label in wanted for name, label in zip(self.names, labels, strict=True)]
        return np.array(each, dtype=np.bool_)

    def _known_size(self, what: str) -> tuple[int, int]:
        if self.size is None:
            raise ValueError(f"{what} need the picture's size, which these Detections do not have")
        return self.size

    def _known_name(self, image: str | None, what: str) -> str:
        name = self.image_id if image is None else image
        if name is None:
            raise ValueError(f"{what} need the picture's name or address: give image=...")
        return str(name)
