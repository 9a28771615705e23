"""What a picture was taken for: its classes with their probabilities, most probable first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from flexdetr.runtime.frozen_arrays import frozen_array

if TYPE_CHECKING:
    from flexdetr.runtime.detections import Detections


@dataclass(frozen=True, eq=False)
class Classification:
    """The classes of one picture, most probable first; the arrays are aligned and cannot be written to.

    Attributes:
        scores: (K,) float32 probabilities; over all classes they add to 1.
        labels: (K,) int64, the data set's own class ids.
        names: K class names.
        indices: (K,) int64, indices of the classes in the model's head.

    Example:
        >>> found = Classification([0.9, 0.1], [7, 3], ["cat", "dog"], [1, 0])
        >>> found.name, round(found.score, 2), found.top(1).names
        ('cat', 0.9, ['cat'])
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]
    indices: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", frozen_array(self.scores, np.float32))
        object.__setattr__(self, "labels", frozen_array(self.labels, np.int64))
        object.__setattr__(self, "indices", frozen_array(self.indices, np.int64))
        object.__setattr__(self, "names", list(self.names))

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} {score:.2f}" for name, score in zip(self.names[:3], self.scores, strict=False)
        )
        return f"<Classification {shown}{' ...' if len(self) > 3 else ''}>"

    @classmethod
    def of(cls, found: Detections) -> Self:
        """The classes of a picture from a model's answer, whose boxes are all the whole picture."""
        return cls(found.scores, found.labels, found.names, found.indices)

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.names[0]

    @property
    def score(self) -> float:
        """Its probability."""
        return float(self.scores[0])

    @property
    def label(self) -> int:
        """Its id in the data set."""
        return int(self.labels[0])

    def top(self, count: int) -> Self:
        """The most probable classes, as many as asked for."""
        return type(self)(self.scores[:count], self.labels[:count], self.names[:count], self.indices[:count])

    def to_json(self) -> list[dict[str, Any]]:
        """A mapping for each class, most probable first."""
        return [
            {"name": name, "label": int(label), "score": round(float(score), 6)}
            for name, label, score in zip(self.names, self.labels, self.scores, strict=True)
        ]
