"""The lowest scores that are kept: one number for all classes, or the best one of each, which a detector carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from flexdetr.config import ConfigError
from flexdetr.runtime.process import THRESHOLD

Threshold: TypeAlias = float | Literal["auto"]
"""A score in [0, 1], or "auto": each class's best one."""


def limits(asked: Threshold, stored: Mapping[str, float], names: Sequence[str]) -> float | list[float]:
    """What ``process.label`` takes: one score, or one for each class.

    ``stored`` are the detector's own thresholds by class name, or "default" for the classes that are not named;
    ``names`` stand in the head's order.

    Raises:
        ConfigError: for "auto" where the detector carries none.
        ValueError: if it is neither a score nor "auto".
    """
    if asked == "auto":
        if not stored:
            raise ConfigError(
                "this detector carries no best thresholds (a training writes them into its best.safetensors, and an "
                "export takes them along); give a threshold between 0 and 1"
            )
        usual = stored.get("default", THRESHOLD)
        return [stored.get(name, usual) for name in names]
    if isinstance(asked, str) or asked is None or not 0 <= asked <= 1:
        raise ValueError(f"the threshold must be between 0 and 1; got {asked!r}; auto takes each class's own")
    return asked
