"""What a checkpoint file is, by its first bytes: readers are chosen by content, not by the file's ending."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Container = Literal["safetensors", "zip", "pickle", "folder"]


class WeightsError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence that says why."""


_FOREIGN = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, which FlexDETR does not read"),
    (b"\x89PNG", "a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "a picture, not a checkpoint"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`",
    ),
)


def sniff(path: str | Path) -> Container:
    """Which container a path holds.

    Returns:
        "safetensors", "zip" (torch.save since 1.6), "pickle" (older torch.save, and Paddle), or "folder".

    Raises:
        WeightsError: if the path is missing, empty, a web page, or no checkpoint container at all.
    """
    path = Path(path)
    if path.is_dir():
        return "folder"
    head = _head(path)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise WeightsError(f"{path} is {what}")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{":
        return "safetensors"
    if head[0] == 0x80 and len(head) > 1 and head[1] in range(2, 6):
        return "pickle"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<")):
        raise WeightsError(
            f"{path} is a web page (HTML), not a checkpoint; the download answered with an error page"
        )
    if text.startswith((b"{", b"[")):
        raise WeightsError(
            f"{path} is JSON text, not a checkpoint; a download may have answered with an error message"
        )
    raise WeightsError(
        f"{path} is not a checkpoint that FlexDETR knows (safetensors, .pth, .pt or .pdparams)"
    )


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is a device or a pipe, and a checkpoint is read from a file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise WeightsError(f"{path} is empty")
    return head
