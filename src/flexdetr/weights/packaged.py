"""Published weights in an installed package: found by its metadata, never imported, checked by their sha256."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flexdetr.files import sha256
from flexdetr.weights.container import WeightsError
from flexdetr.weights.manifest import PublishedWeights


def packaged(entry: PublishedWeights) -> Path | None:
    """The file of an entry's package; None if the package is not installed.

    Raises:
        WeightsError: if the package lacks the file, or its file is not the published one.
    """
    try:
        place = Path(str(distribution(entry.package).locate_file(entry.inside)))
    except PackageNotFoundError:
        return None
    if not place.is_file():
        raise WeightsError(
            f"the package {entry.package} is installed without {entry.inside}: install it again"
        )
    return checked(place, entry)


def checked(place: Path, entry: PublishedWeights) -> Path:
    """The file itself.

    Raises:
        WeightsError: if its sha256 is not the published one.
    """
    found = sha256(place)
    if entry.sha256 is not None and found != entry.sha256:
        raise WeightsError(
            f"{place} is not the published file of {entry.name}, and is not used: its sha256 is {found}, and "
            f"{entry.sha256} was published"
        )
    return place
