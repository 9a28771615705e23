"""Pictures at addresses that fsspec knows: s3://, gs://, abfs:// and others. Needs fsspec, and its package for each."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from flexdetr.runtime.folders import IMAGE_SUFFIXES, is_hidden

# These are read by ``flexdetr.runtime.addresses``, with its limits and without anything more to install.
_OWN = ("http", "https", "rtsp", "rtsps", "rtmp", "udp", "tcp")


class BucketError(OSError):
    """An address that leads nowhere, or that nothing here reads; the message says what is missing."""


def is_bucket(text: str) -> bool:
    """Whether a text is an address of a file system of fsspec's."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.isalnum() and len(scheme) > 1 and scheme.lower() not in _OWN


def listed(address: str) -> list[str]:
    """The pictures at an address, sorted: itself, or all below it.

    Raises:
        BucketError: if there is none, or what reads such addresses is not installed.
    """
    system, path = _opened(address)
    scheme = address.partition("://")[0]
    try:
        names = system.find(path)
    except OSError as error:
        raise BucketError(f"{address}: {error}") from error
    if names == [path]:
        return [address]
    meant = [name for name in names if _is_picture(name)]
    if not meant:
        raise BucketError(f"{address}: there is no picture")
    return sorted(f"{scheme}://{name}" for name in meant)


def read_bytes(address: str) -> bytes:
    """What is stored at an address.

    Raises:
        OSError: if it cannot be read.
    """
    system, path = _opened(address)
    content: bytes = system.cat_file(path)
    return content


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def _opened(address: str) -> Any:  # noqa: ANN401 - of fsspec, which is optional: file system and path
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise BucketError(f"{address} is read with fsspec: pip install 'flexdetr[ray]'") from error
    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise BucketError(f"{address}: {error}") from error
