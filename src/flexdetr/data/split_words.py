"""Which split the name of a file or folder speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

WORDS: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Folders of these names are those of splits.
SPLIT_FOLDERS: Final = tuple(word for words in WORDS.values() for word in words)


def split_named(names: Iterable[str]) -> str | None:
    """The split that the last of some names speaks of which speaks of any; None if none does."""
    for name in reversed([*names]):
        words = re.findall(r"[a-z]+", name.lower())
        for split, known in WORDS.items():
            if any(word in known for word in words):
                return split
    return None
