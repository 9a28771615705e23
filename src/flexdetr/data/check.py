"""Checks a data set before anything is trained on it: every defect with its file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flexdetr.data.dataset import DataError, Dataset, Defect, Record
from flexdetr.data.images import ImageError, verify

_THREADS = 4
_SHOWN = 10


def usable_records(
    dataset: Dataset, split: str, *, skip_bad: bool, progress: Callable[[int], None] | None = None
) -> tuple[Record, ...]:
    """The records of a split, each image of which was decoded once.

    Args:
        dataset: as it was read.
        split: "train", "val" or "test".
        skip_bad: leave out what cannot be used, rather than refuse.
        progress: told how many images more were checked.

    Raises:
        DataError: where the data set has no such split; without ``skip_bad`` also where some annotation or
            image
            cannot be used, naming the files.
    """
    records = dataset.split(split)
    bad = broken_images(records, progress)
    errors = [*dataset.errors, *bad.values()]
    if errors and not skip_bad:
        shown = "\n".join(f"  {defect}" for defect in errors[:_SHOWN])
        more = (
            f"\n  and {len(errors) - _SHOWN} more (flexdetr check lists all)" if len(errors) > _SHOWN else ""
        )
        raise DataError(
            f"{dataset.root} has {len(errors)} files or boxes that cannot be used:\n{shown}{more}\n"
            "Mend them, or go on without them: --set data.skip_bad=true"
        )
    return tuple(record for record in records if record.path not in bad)


def broken_images(
    records: Iterable[Record], progress: Callable[[int], None] | None = None
) -> dict[Path, Defect]:
    """An error for each image that cannot be decoded to its end."""
    bad: dict[Path, Defect] = {}
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for defect in pool.map(_image_defect, [record.path for record in records]):
            if defect is not None:
                bad[defect.file] = defect
            if progress is not None:
                progress(1)
    return bad


def _image_defect(path: Path) -> Defect | None:
    try:
        verify(path)
    except ImageError as error:
        return Defect("error", path, None, str(error).removeprefix(f"{path}: "))
    return None
