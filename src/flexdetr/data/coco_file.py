"""One COCO JSON file: whether a file is one, and where in it an entry stands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flexdetr.data.dataset import Defect
from flexdetr.data.json_lines import JsonLines
from flexdetr.data.text import JSON_LONGEST, TextError, read_text

LISTS: Final = ("images", "annotations", "categories")
_CONVENTION = re.compile(r"^(instances_.*|_annotations\.coco)\.json$")


@dataclass(frozen=True)
class CocoFile:
    """One annotation file.

    Attributes:
        path: where it lies.
        split: the split that it describes.
        content: its lists; None if it cannot be read (``defect`` says why).
        defect: why it cannot be read.
        lines: of the lists' elements.
    """

    path: Path
    split: str
    content: dict[str, list[Any]] | None
    defect: Defect | None = None
    lines: JsonLines = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", JsonLines(self.path, LISTS))

    def entries(self, key: str) -> list[Any]:
        """The elements of one of ``LISTS``, whatever they are."""
        return (self.content or {}).get(key, [])

    def error(self, key: str, place: int, message: str) -> Defect:
        """An error about one element of a list."""
        return Defect("error", self.path, self.lines.of(key, place), message)


def is_conventional(path: Path) -> bool:
    """Whether a file's name says that it is COCO's."""
    return bool(_CONVENTION.match(path.name))


def load(path: Path, split: str, *, named: bool = False) -> CocoFile | None:
    """Reads a file.

    ``named`` files were asked for by name, so that a reason is owed where it is no COCO file.

    Returns:
        None if the file is something else than COCO, unless its name or the user said that it is one: then it has
        a defect.
    """
    owed = named or is_conventional(path)
    line = None
    try:
        content = json.loads(read_text(path, most=JSON_LONGEST))
    except json.JSONDecodeError as error:
        line, reason = error.lineno, f"is not JSON: {error.msg}"
    except (TextError, ValueError) as error:  # the latter: a number of thousands of digits
        reason = str(error)
    except RecursionError:
        reason = "is nested too deeply"
    else:
        if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in LISTS):
            return CocoFile(path, split, {key: content[key] for key in LISTS})
        reason = "is not a COCO annotation file: it needs the lists 'images', 'annotations' and 'categories'"
    return CocoFile(path, split, None, Defect("error", path, line, reason, split)) if owed else None
