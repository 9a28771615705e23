"""A file from its address: resumed where it broke, checked, by one process at a time, with progress.

Few publishers state a sha256. What a file had when it first came is kept beside it, and checked from then on.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from flexdetr.files import sha256 as sha256_of
from flexdetr.files import write_whole
from flexdetr.progress import progress_bar
from flexdetr.weights.container import WeightsError, sniff

_log = logging.getLogger(__name__)

_BLOCK: Final = 1 << 20
_TIMEOUT: Final = 30.0
_YES: Final = ("1", "on", "yes", "true")  # as huggingface_hub reads its switch


class NoAnswerError(Exception):
    """No connection, or a server that does not answer with the file."""


def download(url: str, place: Path, *, sha256: str | None = None) -> Path:
    """Fetch a file, unless it is there; a broken download goes on where it stopped.

    Of several processes one fetches, and the others wait for it.

    ``place.part`` holds what has come so far. ``sha256`` None checks the file's size, and that it is what came
    before, if it did.

    Raises:
        NoAnswerError: if there is no connection, or the server has no such file.
        WeightsError: if what came is not the file.
    """
    with _alone(place):
        return place if place.is_file() else _download(url, place, sha256)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Inside, no other process on this machine fetches the same file; the system frees the lock of one that dies."""
    lock = place.parent / ".locks" / f"{place.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, timeout=0)
        try:
            held.acquire()
        except Timeout:
            _log.warning("another process fetches %s: waiting for it", place.name)
            held.acquire(timeout=-1)
    except OSError as error:
        raise WeightsError(f"cannot write {lock}: {error}") from error
    try:
        yield
    finally:
        held.release()


def _download(url: str, place: Path, sha256: str | None) -> Path:
    part = place.with_name(place.name + ".part")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _YES:
        raise NoAnswerError("HF_HUB_OFFLINE is set")
    try:
        total = _receive(url, part)
    except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError):
            raise NoAnswerError(f"{url} answered {error.code} {error.reason}") from None
        raise NoAnswerError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    except OSError as error:
        raise WeightsError(f"cannot write {part}: {error}") from error
    size = part.stat().st_size
    if total is not None and size != total:
        raise NoAnswerError(
            f"the connection broke after {size} of {total} bytes; the next try goes on from there"
        )
    try:
        sniff(part)
        _check(url, sha256_of(part), sha256, place)
    except WeightsError:
        part.unlink()
        raise
    part.replace(place)
    return place


def _check(url: str, found: str, published: str | None, place: Path) -> None:
    """Compare what came with what was published, or with what came from there before; the first time, keep it."""
    if published is not None and found != published:
        raise WeightsError(
            f"{url} is not the published file: its sha256 is {found}, and {published} was published"
        )
    former = _learned(place)
    if published is None and former not in (None, found):
        raise WeightsError(
            f"{url} is another file than the one fetched before: its sha256 is {found}, and was {former}; if it was "
            f"published again, delete {_note(place)} to take it"
        )
    write_whole(_note(place), f"{found}  {place.name}\n")


def unchanged(place: Path) -> Path:
    """A file that is here: as it came, if it was fetched; one that a person put there has nothing to compare with.

    Raises:
        WeightsError: if it is not what was fetched.
    """
    former = _learned(place)
    if former is not None and (found := sha256_of(place)) != former:
        raise WeightsError(
            f"{place} is not what was fetched: its sha256 is {found}, and was {former}; delete it, and it is fetched "
            "again"
        )
    return place


def _note(place: Path) -> Path:
    """Where a fetched file's sha256 is kept, as ``sha256sum -c`` reads it."""
    return place.with_name(place.name + ".sha256")


def _learned(place: Path) -> str | None:
    try:
        return next(iter(_note(place).read_text(encoding="utf-8").split()), None)
    except FileNotFoundError:
        return None


def _receive(url: str, part: Path) -> int | None:
    """Append what is missing of a file; returns the size of the whole where the server tells it."""
    have = part.stat().st_size if part.exists() else 0
    if not url.startswith(("http://", "https://")):
        raise WeightsError(f"{url} is not an http or https address")
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310 - the scheme was checked
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # all of it is here already
            match = re.search(r"/(\d+)$", error.headers.get("Content-Range") or "")
            return int(match[1]) if match else have
        raise
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            _bar(part.name.removesuffix(".part"), total) as advance,
        ):
            advance(have if resumed else 0)
            while block := answer.read(_BLOCK):
                file.write(block)
                advance(len(block))
    return total


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Takes the bytes that have come: a progress bar on a terminal, a line elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress_bar(TextColumn("{task.description}"), *columns) as bar:
        if bar.disable:
            size = f" ({total / 1e6:.0f} MB)" if total else ""
            bar.console.print(f"fetching {name}{size}", highlight=False)
        yield partial(bar.advance, bar.add_task(name, total=total))
