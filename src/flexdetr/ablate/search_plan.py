"""The plan of a search: a YAML file, read strictly; no torch is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from flexdetr.ablate.plan import Seeds, nested, read_checked, refuse_unallowed, resolved
from flexdetr.config import Config, Part, merge

_OWN: Final = {"seed": "seeds", "train.epochs": "epochs"}


class SearchPlan(Part):
    """Where to look for detectors that are accurate and fast, and how long.

    Attributes:
        title: heads the table; None is the file's name.
        data: the data sets, as for ``flexdetr train``; a candidate's AP is its mean over them.
        split: whose images score the runs; None is "test" where the data has one, otherwise "val".
        base: what all candidates start from: ``model``, and configuration keys; itself the first candidate.
        space: by key of the configuration, the values to choose from.
        candidates: how many to try, the base included.
        sampler: Optuna's: "tpe" learns from what was tried, "random" does not.
        epochs: how long each rung trains, rising; the first rung trains every candidate, each further one the best.
        keep: the share of a rung that goes on to the next.
        seeds: of the last rung's runs; earlier rungs take the first one.
        precision: what the milliseconds are measured in, on OpenVINO.
        threads: of the CPU while they are measured.
        limit_ms: candidates that are slower are not trained; None trains all.
    """

    title: str | None = None
    data: tuple[str, ...] = Field(min_length=1)
    split: Literal["val", "test"] | None = None
    base: dict[str, Any]
    space: dict[str, tuple[Any, ...]] = Field(min_length=1)
    candidates: int = Field(default=24, gt=1)
    sampler: Literal["tpe", "random"] = "tpe"
    epochs: tuple[int, ...] = Field(default=(3, 9), min_length=1)
    keep: float = Field(default=0.34, gt=0, lt=1)
    seeds: Seeds = (0,)
    precision: Literal["fp32", "bf16", "int8"] = "int8"
    threads: int = Field(default=1, gt=0)
    limit_ms: float | None = Field(default=None, gt=0)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_more(cls, data: object) -> object:
        return (data,) if isinstance(data, str) else data

    @field_validator("space")
    @classmethod
    def _choices(cls, space: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in space.items():
            if len({repr(value) for value in values}) < max(2, len(values)):
                raise ValueError(
                    f"{key} takes at least two different values to choose from; got {list(values)}"
                )
            if key in _OWN:
                raise ValueError(f"{key} is set by the plan itself: write it as {_OWN[key]}")
        return space

    @field_validator("epochs")
    @classmethod
    def _rising(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if any(one < 1 for one in epochs) or list(epochs) != sorted(set(epochs)):
            raise ValueError("the rungs' epochs are positive and rise, like [3, 9, 27]")
        return epochs


def read_search_plan(path: str | Path) -> SearchPlan:
    """A plan from its YAML file.

    Raises:
        ConfigError: if the file cannot be read, a key or value is wrong, with the nearest right one, or it names
            code as a backbone that nobody has allowed.
    """
    plan = read_checked(SearchPlan, path, {"": SearchPlan})
    choices = [{key: one} for key, values in plan.space.items() for one in values]
    refuse_unallowed([plan.base, *choices], path)
    for choice in choices:
        candidate_config(plan, choice)  # a wrong key or value is told before any work
    return plan


def candidate_config(plan: SearchPlan, choices: Mapping[str, Any]) -> Config:
    """The configuration of a candidate; its seed and epochs are not in it.

    Args:
        plan: of the search.
        choices: by key, the values chosen; a key that is left out has the base's.

    Raises:
        ConfigError: if the values do not fit, or do not fit together.
    """
    return resolved(merge(nested(plan.base), nested(choices)), "candidates")
