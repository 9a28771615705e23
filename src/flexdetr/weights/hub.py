"""Fetching published files into a cache, and sharing ours on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from flexdetr.weights.container import WeightsError, sniff
from flexdetr.weights.manifest import PUBLISHED, Published, from_timm

if TYPE_CHECKING:
    from torch import Tensor

    from flexdetr.weights.store import Metadata

_log = logging.getLogger(__name__)

SCHEME: Final = "hf://"
_BLOCK: Final = 1 << 20
_TIMEOUT: Final = 30.0


def cache_folder() -> Path:
    """Where fetched files are: ``$FLEXDETR_CACHE``, else ``flexdetr`` in the user's cache folder."""
    if own := os.environ.get("FLEXDETR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexdetr"


def fetch(name: str) -> Path:
    """The published file for a preset or a backbone, from the cache or from its published address.

    Args:
        name: a preset, a backbone, or ``timm/NAME``.

    Raises:
        WeightsError: where nothing is published for it, or the file can be had neither here nor there; the message
            says which file to place where.
    """
    entry = entry_of(name)
    place = cache_folder() / entry.file
    if place.is_file():
        return place
    try:
        if entry.url:
            return download(entry.url, place, sha256=entry.sha256)
        return _from_hub(entry.hub, "model.safetensors", entry.revision)
    except _UnreachableError as error:
        raise WeightsError(
            f"{entry.address} cannot be reached ({error}); fetch the file on another machine and place it at {place}"
        ) from None


def entry_of(name: str) -> Published:
    """What is published for a preset or a backbone.

    Raises:
        WeightsError: where nothing is.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name.startswith("timm/"):
        from timm.models import get_pretrained_cfg

        model = name.removeprefix("timm/")
        facts = get_pretrained_cfg(model)
        if facts is not None and facts.hf_hub_id:
            return from_timm(name, str(facts.hf_hub_id).removeprefix("timm/"))
    raise WeightsError(
        f"no weights are published for {name}; give a file, or weights=none. Published: {', '.join(PUBLISHED)}"
    )


class _UnreachableError(Exception):
    """No connection, or a server that does not answer."""


def download(url: str, place: Path, *, sha256: str | None = None) -> Path:
    """Fetch a file, unless it is there; a broken download goes on where it stopped.

    Of several processes one fetches, and the others wait for it.

    Args:
        url: http or https address.
        place: where the whole file is to be; ``place.part`` holds what has come so far.
        sha256: what the whole file must have; None checks its size only.

    Returns:
        ``place``.

    Raises:
        WeightsError: where the server has no such file, or what came is not the file.
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
    try:
        total = _receive(url, part)
    except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError):
            raise WeightsError(f"{url} answered {error.code} {error.reason}") from None
        raise _UnreachableError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    except OSError as error:
        raise WeightsError(f"cannot write {part}: {error}") from error
    size = part.stat().st_size
    if total is not None and size != total:
        raise _UnreachableError(
            f"the connection broke after {size} of {total} bytes; the next try goes on from there"
        )
    if sha256 is not None and (found := digest(part)) != sha256:
        part.unlink()
        raise WeightsError(
            f"{url} is not the published file: its sha256 is {found}, and {sha256} was published"
        )
    try:
        sniff(part)
    except WeightsError:
        part.unlink()
        raise
    part.replace(place)
    return place


def _receive(url: str, part: Path) -> int | None:
    """Append what is missing of a file; returns the size of the whole where the server tells it."""
    have = part.stat().st_size if part.exists() else 0
    if not url.startswith(("http://", "https://")):
        raise WeightsError(f"{url} is no http or https address")
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
            _bar(part.name.removesuffix(".part"), total) as bar,
        ):
            bar.advance(have if resumed else 0)
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.advance(len(block))
    return total


class _bar:  # noqa: N801 - used like a function
    """A progress bar on a terminal, a line elsewhere."""

    def __init__(self, name: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.console = Console(stderr=True)
        self.name, self.total = name, total
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> _bar:
        if not self.console.is_terminal:
            size = f" ({self.total / 1e6:.0f} MB)" if self.total else ""
            self.console.print(f"fetching {self.name}{size}", highlight=False)
        self.task = self.progress.add_task(self.name, total=self.total)
        self.progress.start()
        return self

    def advance(self, count: int) -> None:
        """So many bytes have come."""
        self.progress.update(self.task, advance=count)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(repository: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(_of_hub(lambda: hf_hub_download(repository, file, revision=revision), repository))


def _of_hub(action: Any, repository: str) -> Any:  # noqa: ANN401 - whatever the hub's function returns
    """Run a function of huggingface_hub; its many errors become ours."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return action()
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise _UnreachableError(_first_line(error)) from error
    except GatedRepoError as error:
        raise WeightsError(
            f"{SCHEME}{repository} is gated; ask for access and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{SCHEME}{repository} does not exist, or is private and you are not logged in"
        ) from error
    except (EntryNotFoundError, HFValidationError, HfHubHTTPError) as error:
        raise WeightsError(f"{SCHEME}{repository}: {_first_line(error)}") from error
    except Exception as error:
        # Its HTTP library changes with its version: httpx, httpx2.
        if type(error).__module__.startswith("httpx"):
            raise _UnreachableError(_first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def local(reference: str | Path) -> Path:
    """A checkpoint's place on this machine; ``hf://user/name[@revision]`` is fetched first.

    Only safetensors and JSON files are fetched, never pickles.

    Raises:
        WeightsError: where the hub does not have it or cannot be reached.
    """
    text = str(reference)
    if isinstance(reference, Path) or not text.startswith(SCHEME):
        return Path(reference)
    repository, _, revision = text.removeprefix(SCHEME).partition("@")
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json"]
    try:
        folder = _of_hub(
            lambda: snapshot_download(repository, revision=revision or None, allow_patterns=patterns),
            repository,
        )
    except _UnreachableError as error:
        raise WeightsError(
            f"{text} cannot be reached ({error}); fetch its model.safetensors and config.json on another machine, "
            "place them in one folder, and load that folder"
        ) from None
    return Path(folder)


def push(
    repository: str,
    state: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    private: bool = False,
    message: str = "Add a FlexDETR detector",
) -> str:
    """Share a detector: ``model.safetensors`` and a model card. ``flexdetr.load("hf://user/name")`` takes it back.

    Args:
        repository: "user/name"; made where it does not exist.
        state: the detector's state dict.
        metadata: what travels with it.
        private: make a private repository.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        WeightsError: where the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    from flexdetr.weights import store

    api = HfApi()
    repository = repository.removeprefix(SCHEME)
    with tempfile.TemporaryDirectory() as folder:
        store.save(Path(folder) / "model.safetensors", state, metadata)
        (Path(folder) / "README.md").write_text(card(repository, metadata), encoding="utf-8")

        def upload() -> str:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
            return str(address)

        try:
            return str(_of_hub(upload, repository))
        except _UnreachableError as error:
            raise WeightsError(
                f"{SCHEME}{repository} cannot be reached ({error}); nothing was shared"
            ) from None


def card(repository: str, metadata: Metadata) -> str:
    """The model card: what it detects, where its weights come from, how to use it."""
    names = ", ".join(str(row["name"]) for row in metadata.classes)
    licence = metadata.licence.lower() if metadata.licence != "unknown" else "unknown"
    lines = [
        "---",
        "library_name: flexdetr",
        "pipeline_tag: object-detection",
        "tags: [object-detection, rt-detr]",
        *([f"license: {licence}"] if licence != "unknown" else []),
        "---",
        f"# {repository.split('/')[-1]}",
        "",
        f"A {metadata.model} detector of {len(metadata.classes)} classes ({names}), "
        f"made for {metadata.image_size[0]}x{metadata.image_size[1]} images.",
        "",
        "```python",
        "import flexdetr",
        f'detections = flexdetr.load("{SCHEME}{repository}").predict("picture.jpg")',
        "```",
    ]
    if metadata.provenance:
        lines += ["", "Its weights descend from:", ""]
        lines += [
            f"- {row.get('source', '?')} ({row.get('licence', 'licence unknown')})"
            for row in metadata.provenance
        ]
    return "\n".join([*lines, ""])
