"""Which classes the categories of COCO files are."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from flexdetr.classes import ClassError, Classes
from flexdetr.data.coco_file import CocoFile
from flexdetr.data.dataset import DataError
from flexdetr.data.values import identity, shown, whole

_LARGEST = 2**63 - 1  # what the results' arrays hold


class _Category(NamedTuple):
    name: str
    parents: frozenset[str]
    file: CocoFile


def classes_of(files: list[CocoFile], notes: list[str]) -> Classes:
    """The classes of a data set, in the order of their ids.

    A category without boxes is no class where it is another's super-category, or has the name of another one that has
    boxes: Roboflow writes such a root, named like the project.

    What was left out is added to ``notes``.

    Raises:
        DataError: if a category has no id or no name, or two of them contradict each other.
    """
    categories = _gather(files)
    mentioned = {
        whole(annotation.get("category_id"))
        for file in files
        for annotation in file.entries("annotations")
        if isinstance(annotation, dict)
    }
    used = {number for number in mentioned if number in categories}
    children: dict[str, set[int]] = defaultdict(set)
    for number, category in categories.items():
        for parent in category.parents:
            children[parent].add(number)
    used_names = {categories[number].name for number in used}
    for number in sorted(categories.keys() - used):
        name = categories[number].name
        if children[name] - {number}:
            notes.append(f"category {number} {name!r} is an unused super-category; it is not a class")
        elif name in used_names:
            notes.append(
                f"category {number} {name!r} has no boxes, and another category its name; it is not a class"
            )
        else:
            notes.append(f"category {number} {name!r} has no boxes")
            continue
        del categories[number]
    numbers = tuple(sorted(categories))
    try:
        return Classes(tuple(categories[number].name for number in numbers), numbers)
    except ClassError as error:
        raise DataError(f"{files[0].path}: categories: {error}") from error


def _gather(files: list[CocoFile]) -> dict[int, _Category]:
    found: dict[int, _Category] = {}
    for file in files:
        for place, entry in enumerate(file.entries("categories")):
            number, category = _category(file, place, entry)
            other = found.get(number, category)
            if other.name != category.name:
                same = other.file is file
                where = "further above" if same else "in another split"
                advice = "give each an id of its own" if same else "the splits must share their categories"
                raise DataError(
                    f"{file.path}: category {number} is {category.name!r}, {where} it is {other.name!r}; {advice}"
                )
            found[number] = category._replace(parents=category.parents | other.parents)
    return found


def _category(file: CocoFile, place: int, entry: object) -> tuple[int, _Category]:
    fields = entry if isinstance(entry, dict) else {}
    number, name, parent = whole(fields.get("id")), identity(fields.get("name")), fields.get("supercategory")
    if number is None or name is None or abs(number) > _LARGEST:
        line = file.lines.of("categories", place)
        at = "" if line is None else f":{line}"
        raise DataError(f"{file.path}{at}: a category needs an integer 'id' and a 'name'; got {shown(entry)}")
    written = fields["name"] if isinstance(fields["name"], str) else str(name)
    return number, _Category(written, frozenset((parent,)) if isinstance(parent, str) else frozenset(), file)
