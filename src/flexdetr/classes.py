"""Class names and ids, which travel from the data set through head, checkpoint and exported file to the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flexdetr.config import nearest

_SHOWN = 5  # names in a repr


class ClassError(ValueError):
    """Classes that contradict each other, or a name that is none of them; the message says which."""


@dataclass(frozen=True)
class Classes:
    """The classes of a detector, in the order of its head.

    The head counts 0, 1, 2 ...; a data set numbers its classes as it likes (from 0, from 1, with holes).
    Position ``i`` of both tuples belongs to output ``i`` of the head, so that results can be given in the
    data set's own ids.

    Attributes:
        names: one name per class.
        ids: the data set's own id of each class.

    Raises:
        ClassError: if names and ids are not equally many, one of them occurs twice, or a name is no text that a file
            can hold.

    Example:
        >>> classes = Classes(("cat", "dog"), (3, 7))
        >>> classes.ids[classes.index_of_name("dog")]
        7
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ClassError(
                f"{len(self.names)} class names for {len(self.ids)} ids; give one id for each name"
            )
        for name in self.names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                raise ClassError(
                    f"class name {name!r} holds half of a character, which cannot be saved; rename it"
                )
        for what, values in (("name", self.names), ("id", self.ids)):
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise ClassError(
                    f"class {what} {', '.join(map(repr, twice))} occurs more than once; make each unique"
                )

    @classmethod
    def of(cls, names: Iterable[str]) -> Classes:
        """Classes with the ids 0, 1, 2 ..."""
        names = tuple(str(name) for name in names)
        return cls(names, tuple(range(len(names))))

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, object]]) -> Classes:
        """The inverse of ``to_json``.

        Raises:
            ClassError: if a row lacks its id or its name.
        """
        for row in rows:
            if not isinstance(row.get("id"), int) or not isinstance(row.get("name"), str):
                raise ClassError(f"a class needs an integer 'id' and a text 'name'; got {dict(row)!r}")
        return cls(tuple(str(row["name"]) for row in rows), tuple(int(str(row["id"])) for row in rows))

    def to_json(self) -> list[dict[str, int | str]]:
        """``[{"id": 1, "name": "cat"}, ...]``, as COCO writes categories, in the head's order."""
        return [{"id": number, "name": name} for name, number in zip(self.names, self.ids, strict=True)]

    def index_of_name(self, name: str) -> int:
        """The head's index of a class.

        Raises:
            ClassError: if there is no such class; names the nearest one.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ClassError(nearest(name, self.names, "class")) from None

    def index_of_id(self, number: int) -> int:
        """The head's index of the class with the data set's id ``number``.

        Raises:
            ClassError: if no class has this id.
        """
        try:
            return self.ids.index(number)
        except ValueError:
            raise ClassError(f"no class has the id {number}; ids: {', '.join(map(str, self.ids))}") from None

    def valid_ids(self) -> str:
        """The ids for a message: ``0 to 4``, or ``1, 3, 7`` where they have holes."""
        low, high = min(self.ids, default=0), max(self.ids, default=-1)
        if high - low + 1 == len(self) and len(self) > 1:
            return f"{low} to {high}"
        return ", ".join(map(str, sorted(self.ids))) or "none"

    def __len__(self) -> int:
        return len(self.names)


def as_classes(classes: Classes | Mapping[int, str] | Iterable[str]) -> Classes:
    """Classes from names in the head's order, or from ``{data-set id: name}``.

    Raises:
        ClassError: as ``Classes``.
    """
    if isinstance(classes, Classes):
        return classes
    if isinstance(classes, Mapping):
        return Classes(tuple(classes.values()), tuple(classes))
    return Classes.of(classes)


def described(classes: Classes, image_size: tuple[int, int]) -> str:
    """Classes and the size that a network sees, as a detector's ``repr`` shows them: the first names, not all."""
    shown = ", ".join(classes.names[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
    plural = "class" if len(classes) == 1 else "classes"
    return f"{image_size[1]}x{image_size[0]} pixels, {len(classes)} {plural} ({shown})"
