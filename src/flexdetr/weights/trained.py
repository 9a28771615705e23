"""Which parts of a detector start trained: what loading weights returns, and what the recipe follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainedParts:
    """The parts of a detector, by what their weights start from.

    Attributes:
        trained: parts ("backbone", "encoder" ...) that start from trained weights.
        random: parts that start from random weights.
        fresh: parameters of the trained parts that start from random weights all the same: attention inserts, made
            levels, layers that the checkpoint did not have.
    """

    trained: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, loaded: Iterable[str] = ()) -> Self:
        """The parts of a model.

        ``loaded`` are names of the parameters that were loaded.
        """
        names = set(loaded)
        trained, random, fresh = [], [], set[str]()
        for part, module in model.named_children():
            own = {name for name, _ in module.named_parameters(prefix=part)}
            if own & names:
                trained.append(part)
                fresh |= own - names
            elif own:
                random.append(part)
        return cls(tuple(trained), tuple(random), frozenset(fresh))

    @classmethod
    def whole(cls, model: nn.Module) -> Self:
        """All of a model."""
        return cls.of(model, (name for name, _ in model.named_parameters()))

    @property
    def all_trained(self) -> bool:
        """Whether every part starts from trained weights."""
        return bool(self.trained) and not self.random

    def __str__(self) -> str:
        """A clause."""
        if not self.trained:
            return "nothing is trained yet"
        but = f" but for {len(self.fresh)} new weight{'s'[: len(self.fresh) - 1]}" if self.fresh else ""
        if not self.random:
            return f"the whole model is trained{but}"
        return f"{_are(self.trained)} trained{but}, {_are(self.random)} not"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"trained": [*self.trained], "random": [*self.random], "fresh": sorted(self.fresh)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Back from plain data."""
        return cls(tuple(content["trained"]), tuple(content["random"]), frozenset(content["fresh"]))


def _are(parts: Iterable[str]) -> str:
    *first, last = (f"the {part}" for part in parts)
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"
