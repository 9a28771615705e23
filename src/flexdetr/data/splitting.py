"""Data sets divided into training, validation and test images anew, and several made one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexdetr.classes import Classes
from flexdetr.data.dataset import SPLITS, DataError, Dataset, Record


def split(
    dataset: Dataset,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    group: str | None = None,
    stratified: bool = False,
) -> Dataset:
    """All images of a data set, divided anew.

    Stratified division follows Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data" (2011):
    class by class, the rarest first, each image goes to the split that still lacks most images of this class. Images
    without objects count as a class of their own.

    Args:
        dataset: whose splits are put together first.
        shares: of each split, in (0, 1], together 1.
        seed: the same one divides the same images in the same way.
        group: images that belong together, like the frames of a film, stay together: "folder", or a regular expression
            whose first group (or whole match) in the image's path is the group's name.
        stratified: give each split its share of the images of each class.

    Raises:
        DataError: if the shares, the split's names or the regular expression are wrong, or there are fewer images
            (or groups) than splits.
    """
    _check_shares(shares)
    records = [record for name in SPLITS for record in dataset.splits.get(name, ())]
    units = _units(records, group)
    if len(units) < len(shares):
        what = "groups" if group else "images"
        raise DataError(f"{dataset.root}: {len(units)} {what} cannot be divided into {len(shares)} splits")
    order = np.random.default_rng(seed).permutation(len(units)).tolist()
    units = [units[index] for index in order]
    targets = np.array([*shares.values()])
    chosen = (
        _stratified(_counts(units, records, len(dataset.classes)), targets)
        if stratified
        else _by_size(np.array([len(unit) for unit in units]), targets)
    )
    number = dict.fromkeys(range(len(records)), 0)
    for unit, place in zip(units, chosen, strict=True):
        number |= dict.fromkeys(unit, place)
    found = {
        name: _own_ids([record for index, record in enumerate(records) if number[index] == place])
        for place, name in enumerate(shares)
    }
    return replace(dataset, splits={name: found[name] for name in SPLITS if found.get(name)})


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets as one: splits of one name are put together, classes of one name are one class.

    Ids are kept where all agree about them; otherwise classes are numbered 0, 1, 2 ... in the order of their first
    appearance, and a note says so.

    The first data set gives root and format.
    """
    numbers: dict[str, set[int]] = {}
    for dataset in datasets:
        for name, number in zip(dataset.classes.names, dataset.classes.ids, strict=True):
            numbers.setdefault(name, set()).add(number)
    names = [*numbers]
    ids = [min(own) for own in numbers.values()]
    notes = [f"{dataset.root}: {note}" for dataset in datasets for note in dataset.notes]
    if any(len(own) > 1 for own in numbers.values()) or len(set(ids)) < len(ids):
        ids = list(range(len(names)))
        notes.append(f"the class ids contradict each other: they are now 0 to {len(ids) - 1}")
    classes = Classes(tuple(names), tuple(ids))
    matched = [dataset.with_classes(classes) for dataset in datasets]
    splits = {
        name: _own_ids([record for dataset in matched for record in dataset.splits.get(name, ())])
        for name in SPLITS
    }
    defects = tuple(defect for dataset in datasets for defect in dataset.defects)
    return replace(
        matched[0],
        splits={name: records for name, records in splits.items() if records},
        defects=defects,
        notes=tuple(notes),
    )


def _check_shares(shares: Mapping[str, float]) -> None:
    unknown = [name for name in shares if name not in SPLITS]
    if unknown or not shares:
        raise DataError(f"splits are called {', '.join(SPLITS)}; got {', '.join(shares) or 'none'}")
    if not all(0 < share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise DataError(f"the shares of the splits must be above 0 and together 1; got {given}")


def _units(records: Sequence[Record], group: str | None) -> list[list[int]]:
    """Positions of the records that stay together."""
    if group is None:
        return [[index] for index in range(len(records))]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataError(f"{group!r} is not a regular expression: {error}") from error
    units: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        units.setdefault(_group(record.path, None if group == "folder" else pattern), []).append(index)
    return list(units.values())


def _group(path: Path, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return str(path.parent)
    match = pattern.search(path.as_posix())
    if match is None:
        raise DataError(f"the group expression {pattern.pattern!r} is nowhere in {path}; change it")
    return match[1] if pattern.groups and match[1] is not None else match[0]


def _by_size(sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> list[int]:
    """Each unit's split: the one that lacks most images of its share; every split gets at least one unit."""
    lacking = shares * sizes.sum()
    chosen: list[int] = []
    for place, size in enumerate(sizes.tolist()):
        target = int(np.argmax(_with_room(lacking, chosen, len(sizes) - place)))
        lacking[target] -= size
        chosen.append(target)
    return chosen


def _with_room(lacking: NDArray[np.float64], chosen: Sequence[int], left: int) -> NDArray[np.float64]:
    """What each split lacks; once as many units are left as splits are empty, only of those."""
    empty = np.array([place not in chosen for place in range(len(lacking))])
    return np.where(empty, lacking, -np.inf) if empty.sum() >= left else lacking


def _counts(units: Sequence[Sequence[int]], records: Sequence[Record], num_classes: int) -> NDArray[np.int64]:
    """(units, classes + 2): images with each class, images without objects, images."""
    table = np.zeros((len(units), num_classes + 2), np.int64)
    for row, unit in zip(table, units, strict=True):
        for index in unit:
            present = np.unique(records[index].labels)
            row[present] += 1
            row[num_classes] += not len(present)
            row[-1] += 1
    return table


def _stratified(table: NDArray[np.int64], shares: NDArray[np.float64]) -> list[int]:
    """Each unit's split, given how many images of each class (and in the last column, at all) it holds."""
    lacking = shares[:, None] * table.sum(axis=0)
    chosen = np.full(len(table), -1)
    while (chosen < 0).any():
        open_units = np.flatnonzero(chosen < 0)
        left = table[open_units, :-1].sum(axis=0)
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for unit in open_units[table[open_units, rarest] > 0].tolist():
            taken = chosen[chosen >= 0].tolist()
            room = np.isfinite(_with_room(lacking[:, -1], taken, len(table) - len(taken)))
            wish = np.where(room, lacking[:, rarest], -np.inf)
            best = np.flatnonzero(wish >= wish.max() - 1e-9)
            target = int(best[np.argmax(lacking[best, -1])])
            lacking[target] -= table[unit]
            chosen[unit] = target
    return [int(place) for place in chosen]


def _own_ids(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records, numbered anew where two have one id: in the splits that they came from they had not."""
    counts = Counter(record.image_id for record in records)
    if all(count == 1 for count in counts.values()):
        return tuple(records)
    return tuple(replace(record, image_id=number) for number, record in enumerate(records, start=1))
