"""What was found in a checkpoint and what became of it, as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexdetr.config_values import some_of


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from one file.

    Attributes:
        file: where it is.
        title: what it is.
        branch: "EMA", "raw", or empty.
        model: the nearest preset, and how the configuration departs from it.
        classes: how many, and where their names come from.
        image_size: (height, width); None for a backbone, which has none.
        mapped: tensors that have a place in our model.
        left: tensors that a detector does not need, with the reason.
        unknown: tensors without a place in our model.
        missing: tensors of our model that the file lacks.
        notes: what else to know.
    """

    file: str
    title: str
    branch: str
    model: str
    classes: str
    image_size: tuple[int, int] | None
    mapped: int
    left: Mapping[str, str]
    unknown: Sequence[str] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Several lines, the most important first."""
        branch = f" ({self.branch} weights)" if self.branch else ""
        size = () if self.image_size is None else ("  image size: {}x{}".format(*self.image_size),)
        lines = [
            f"{self.file}: {self.title}{branch}",
            f"  model: {self.model}",
            f"  classes: {self.classes}",
            *size,
            f"  mapped: {self.mapped} tensors",
        ]
        for reason, count in Counter(self.left.values()).items():
            lines.append(f"  left out: {count} tensors, {reason}")
        for what, names in (("no place for", self.unknown), ("missing", self.missing)):
            if names:
                lines.append(f"  {what}: {some_of(names)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
