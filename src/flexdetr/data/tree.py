"""Finds the files that annotations name: on another system, under another root, in another writing."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from flexdetr.data.split_words import split_named
from flexdetr.runtime.folders import Listing, is_hidden, list_files

# Folders that say what kind of files lie in them, and nothing about which image is meant.
_KINDS = frozenset(
    (
        "images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "frames", "data", "labels", "label",
        "annotations", "annotation", "xmls", "xml", "txt", "obj_train_data",
    )
)  # fmt: skip
_SHOWN = 4


class LocateError(ValueError):
    """A file that was not found, or more than one that may be meant; the message says where it was looked for."""


class Tree:
    """The files of a data set.

    What is looked for is first taken literally. If nothing is there, the longest end of the written path that
    exists somewhere below the root counts, whatever the case of its letters; backslashes separate, percent signs are
    decoded. The answer depends on no order of files, and folders are read once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[Path, frozenset[str]] = {}
        self._used: set[str] = set()

    @cached_property
    def listing(self) -> Listing:
        """Everything below the root."""
        return list_files(self.root)

    @property
    def files(self) -> list[Path]:
        """Every visible file below the root, in order."""
        return self.listing.files

    def use(self, *paths: Path) -> None:
        """Remember files that were read, or that are accounted for otherwise."""
        self._used.update(map(_absolute, paths))

    def unused(self) -> list[Path]:
        """The files below the root that ``use`` was not told of, under this path or another that links lead to."""
        left = [path for path in self.files if _absolute(path) not in self._used]
        if not left:
            return []
        used = {os.path.realpath(path) for path in self._used if "\0" not in path}  # no file has such a name
        return [path for path in left if os.path.realpath(path) not in used]

    def has(self, path: Path) -> bool:
        """Whether a regular file lies there."""
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = frozenset(_regular_files(folder))
        return path.name in self._folders[folder]

    def locate(self, name: str, near: Sequence[Path] = ()) -> Path:
        """The file that an annotation names.

        ``near`` are folders that relative names may start from, likeliest first.

        Raises:
            LocateError: if there is no such file, or several that it may be.
        """
        for text in _readings(name):
            parts = _parts(text)
            if not parts:
                continue
            if text.startswith("/") and self.has(Path(text)):
                return Path(text)
            for folder in near:
                path = Path(os.path.normpath(folder.joinpath(*parts)))
                if self.has(path):
                    return path
            found = self._by_tail(name, parts, near)
            if found is not None:
                return found
        looked = ", ".join(dict.fromkeys(str(folder) for folder in near)) or str(self.root)
        raise LocateError(
            f"{name!r} was not found: not in {looked}, and under no end of this path below {self.root}"
        )

    def find_folder(self, name: str) -> Path | None:
        """The folder below the root with the longest end of a written path; None if none or several have it."""
        best = _longest_tail(self._folders_by_tail, _parts(name.replace("\\", "/")), self.root)
        return best[0] if len(best) == 1 else None

    def _by_tail(self, name: str, parts: Sequence[str], near: Sequence[Path]) -> Path | None:
        best = _longest_tail(self._files_by_tail, parts, self.root)
        best = [path for path in best if path.name == parts[-1]] or best
        if len(best) < 2:
            return best[0] if best else None
        for folder in near:
            inside = [path for path in best if folder != self.root and folder in path.parents]
            if len(inside) == 1:
                return inside[0]
        shown = " or ".join(path.relative_to(self.root).as_posix() for path in best[:_SHOWN])
        raise LocateError(f"{name!r} may be {shown} in {self.root}; write more of its path")

    @cached_property
    def _files_by_tail(self) -> _Tails:
        return _tails(self.files, self.root)

    @cached_property
    def _folders_by_tail(self) -> _Tails:
        inside = {folder for path in self.files for folder in path.relative_to(self.root).parents}
        return _tails([self.root / folder for folder in sorted(inside) if folder.parts], self.root)


_Tails = dict[tuple[str, ...], list[Path]]


def _tails(paths: Iterable[Path], root: Path) -> _Tails:
    """Paths by every end of theirs below the root."""
    found: _Tails = defaultdict(list)
    for path in paths:
        keys = tuple(map(_key, path.relative_to(root).parts))
        for first in range(len(keys)):
            found[keys[first:]].append(path)
    return found


def _longest_tail(tails: _Tails, parts: Sequence[str], root: Path) -> list[Path]:
    """The paths that share the longest end with a written one, without those of another split."""
    keys = tuple(_key(part) for part in parts if part != "..")
    for first in range(len(keys)):
        asked = split_named(keys[:first])
        found = []
        for path in tails.get(keys[first:], ()):
            there = split_named(path.relative_to(root).parts[: first - len(keys)])
            if asked is None or there is None or asked == there:
                found.append(path)
        if found:
            return found
    return []


def place_of(path: Path, root: Path) -> tuple[str, ...]:
    """What an image and its label file have in common: folders that tell images apart, and the name without suffix."""
    try:
        folders = path.relative_to(root).parts[:-1]
    except ValueError:
        folders = path.parts[:-1]
    return (*(key for key in map(_key, folders) if key not in _KINDS), _key(path.stem))


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The visible regular files of a folder that end so, by name; none if there is no such folder."""
    names = sorted(name for name in _regular_files(folder) if not is_hidden(name))
    return [folder / name for name in names if Path(name).suffix.lower() in suffixes]


def unique_ids(paths: Sequence[Path], root: Path) -> list[str]:
    """An id for each file: its stem; where several share it, the path below the root, with its suffix if need be."""
    stems = Counter(path.stem for path in paths)
    plain = [path.stem if stems[path.stem] == 1 else _below(path.with_suffix(""), root) for path in paths]
    twice = Counter(plain)
    return [name if twice[name] == 1 else _below(path, root) for name, path in zip(plain, paths, strict=True)]


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay as they are, and no file is touched


def _below(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _regular_files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except (OSError, ValueError):  # there is no such folder, or no folder can have this name
        return []


def _readings(name: str) -> list[str]:
    """What a written path may mean, likeliest first."""
    plain = name.strip().replace("\\", "/")
    inner = re.search(r"[?&]d=([^&]+)", plain)  # Label Studio's address of a local file
    address = re.match(r"(?:file|https?|s3|gs)://[^/]*/([^?#]*)", plain)
    texts = [plain, unquote(plain)]
    texts += [unquote(match[1]) for match in (inner, address) if match]
    return list(dict.fromkeys(texts))


def _parts(text: str) -> list[str]:
    """A path's parts; without an empty one, and without the drive of Windows."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def _key(name: str) -> str:
    """The same for names that differ in case, or in how accents are composed."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
