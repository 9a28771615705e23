"""YOLO's label lines, in the forms that tools write: boxes, polygons, keypoints, confidences and track ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from flexdetr.classes import Classes
from flexdetr.data.values import whole

Form = Literal["box", "polygon", "keypoints", "columns"]
# A coordinate beyond this is in pixels, not a fraction that strays over the edge.
_LARGEST_FRACTION = 1.5
NOTES: dict[Form, str] = {
    "polygon": "label lines are polygons; the boxes around them were taken",
    "keypoints": "label lines hold keypoints; their boxes were taken",
    "columns": "label lines have further columns, a confidence or a track id; these were passed over",
}


class LineError(ValueError):
    """A label line that cannot be read."""


class Row(NamedTuple):
    """A label line: its number in the file, its class as written, and the numbers after that."""

    line: int
    number: str
    values: tuple[float, ...]


def split_line(line: int, text: str) -> Row:
    """A line that is not blank as a row.

    Raises:
        LineError: if it holds something else than numbers.
    """
    words = text.split()
    try:
        float(words[0])
        return Row(line, words[0], tuple(map(float, words[1:])))
    except ValueError as error:
        raise LineError(f"holds something else than numbers: {error}") from None


def unusual_forms(rows: Iterable[Row], keypoint_values: int = 0) -> dict[int, Form]:
    """What lines mean whose count of numbers does not tell, by this count; all lines of a data set decide together.

    Visibilities of 0, 1 and 2 make keypoints, an id beyond 1 in the sixth place makes a track; without either in any
    line such lines are polygons.

    ``rows`` are all lines of the data set; ``keypoint_values`` is how many numbers follow each box, where its
    description says so.
    """
    if keypoint_values:
        return {4 + keypoint_values: "keypoints", 5 + keypoint_values: "keypoints"}
    forms: dict[int, Form] = {}
    seen, flagged, twos = Counter[int](), Counter[int](), Counter[int]()
    for row in rows:
        count = len(row.values)
        seen[count] += 1
        if count >= 7 and count % 3 == 1:
            visible = row.values[6::3]
            flagged[count] += all(value in (0, 1, 2) for value in visible)
            twos[count] += 2 in visible
        if count == 6 and row.values[5] > _LARGEST_FRACTION and row.values[5].is_integer():
            forms[6] = "columns"
    forms |= {count: "keypoints" for count in seen if twos[count] and flagged[count] == seen[count]}
    return forms


def read_row(
    row: Row, classes: Classes, forms: dict[int, Form]
) -> tuple[int, tuple[float, float, float, float], Form]:
    """One label line.

    Args:
        row: ``class cx cy w h``, perhaps with keypoints or further columns, or ``class x1 y1 x2 y2 x3 y3 ...``; all
            in fractions.
        classes: gives the valid ids.
        forms: of ``unusual_forms``.

    Returns:
        index of the head's class, box as xyxy fractions, and the form of the line.

    Raises:
        LineError: what is wrong with it.
    """
    number, values, count = whole(row.number), row.values, len(row.values)
    if number not in classes.ids:
        raise LineError(
            f"class id {row.number} is outside the names of the data set (valid: {classes.valid_ids()})"
        )
    index = classes.index_of_id(number)
    form: Form = forms.get(count, "box" if count == 4 else "columns" if count == 5 else "polygon")
    if form == "polygon":
        if count < 6 or count % 2:
            raise LineError(
                f"has {count} numbers after the class; a box has 4, a polygon an even count of at least 6"
            )
        _check(values)
        return index, (min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])), form
    _check(values[:4])
    cx, cy, w, h = values[:4]
    return index, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), form


def _check(values: tuple[float, ...]) -> None:
    if any(not -0.5 <= value <= _LARGEST_FRACTION for value in values):
        raise LineError("coordinates must be fractions of the image's width and height, between 0 and 1")
