"""Class transfer: what a head has learnt about a class goes along with the class's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexdetr.classes import Classes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transfer:
    """Which classes of a new head begin with an old head's rows.

    ``carried`` has (name in the new head, its index, index in the old head), ``fresh`` names that begin anew;
    ``dropped`` is how many classes of the old head are not in the new one.
    """

    carried: tuple[tuple[str, int, int], ...]
    fresh: tuple[str, ...]
    dropped: int

    def __str__(self) -> str:
        """One sentence."""
        carried = ", ".join(name for name, _, _ in self.carried) or "none"
        fresh = ", ".join(self.fresh) or "none"
        return f"classes carried over by name: {carried}; newly initialised: {fresh}; dropped: {self.dropped}"


def match_classes(old: Classes, new: Classes) -> Transfer:
    """Pair classes by name. Case, and whether words are joined by blanks, hyphens or underscores, does not matter.

    Ids play no part: the same number means another thing in every data set.
    """
    places = {_plain(name): index for index, name in reversed([*enumerate(old.names)])}
    carried, fresh = [], []
    for index, name in enumerate(new.names):
        if (source := places.get(_plain(name))) is None:
            fresh.append(name)
        else:
            carried.append((name, index, source))
    return Transfer(tuple(carried), tuple(fresh), len(old) - len({source for _, _, source in carried}))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def depends_on_classes(name: str, rows: Sequence[str]) -> bool:
    """Whether a tensor of a detector has one row per class.

    ``rows`` are the head's own patterns, see ``Head.class_rows``.
    """
    return any(re.fullmatch(rf"head\.(?:{pattern})", name) for pattern in rows)


def carry_over(
    old: Mapping[str, Tensor], fresh: Mapping[str, Tensor], transfer: Transfer, rows: Sequence[str]
) -> dict[str, Tensor]:
    """A state dict for the new head.

    ``old`` are the checkpoint's tensors, ``fresh`` the new detector's own, initialised; ``rows`` are patterns
    of those with one row per class, see ``Head.class_rows``.

    Returns:
        ``old`` with each class-dependent tensor replaced by the new one's, in which the rows of carried classes are
        the old ones; those of another width are left as they are.
    """
    state = dict(old)
    for name in old:
        if not depends_on_classes(name, rows):
            continue
        if name not in fresh:  # a detector without denoising
            del state[name]
            continue
        if fresh[name].shape[1:] != old[name].shape[1:]:  # a head of another form, which the caller refuses
            continue
        own = fresh[name].detach().clone()
        for _, new_row, old_row in transfer.carried:
            own[new_row] = old[name][old_row]
        state[name] = own
    return state
