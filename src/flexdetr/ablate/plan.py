"""The plan of an ablation: a YAML file, read strictly; no torch is imported here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from flexdetr.config import Config, ConfigError, Part, merge, nearest, parse_overrides, read_yaml
from flexdetr.config_values import nest
from flexdetr.foreign_code import first_objection
from flexdetr.presets import resolve

BASE: Final = "base"
_Kind = TypeVar("_Kind", bound=Part)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLANS_OWN = {"seed": "seeds", "train.epochs": "budget"}


def _once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed may be listed once: the same run again says nothing new")
    return seeds


Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_once)]


class Budget(Part):
    """How long each run trains; one of the two.

    Attributes:
        epochs: the same number for all.
        minutes: of training and evaluation for each run; the epochs that fit are measured beforehand.
    """

    epochs: int | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("a budget is either epochs or minutes")
        return self


class Plan(Part):
    """What is compared with what.

    Attributes:
        title: heads the table; None is the file's name.
        data: folder (or file) of the data set, as for ``flexdetr train``.
        split: whose images score the runs; None is "test" where the data has one, otherwise "val".
        base: the run that the others are compared with: ``model``, and configuration keys.
        variants: by name, the configuration keys that each changes of the base.
        seeds: each variant and the base run once with each.
        budget: how long each run trains; None leaves it to the recipe.
    """

    title: str | None = None
    data: str
    split: Literal["val", "test"] | None = None
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    seeds: Seeds = (0, 1, 2)
    budget: Budget | None = None

    @field_validator("variants", mode="before")
    @classmethod
    def _named(cls, variants: object) -> object:
        if not isinstance(variants, Mapping):
            return variants
        for name in map(str, variants):
            if name == BASE or not _NAME.fullmatch(name):
                raise ValueError(
                    f"a variant cannot be called {name!r}: letters, digits, '.', '_' and '-' make a name that is "
                    f"also a folder's, and {BASE!r} is taken"
                )
        return {str(name): changes for name, changes in variants.items()}


def read_plan(path: str | Path) -> Plan:
    """A plan from its YAML file.

    Raises:
        ConfigError: if the file cannot be read, a key or value is wrong, with the nearest right one, or it names
            code that nobody has allowed.
    """
    plan = read_checked(Plan, path, {"": Plan, "budget": Budget})
    refuse_unallowed([plan.base, *plan.variants.values()], path)
    return plan


def read_checked(kind: type[_Kind], path: str | Path, sections: Mapping[str, type[Part]]) -> _Kind:
    """A plan of some kind from its file; ``sections`` are those whose keys are known, the whole file's under ""."""
    values = read_yaml(path)
    values.setdefault("title", Path(path).stem.replace("_", " ").capitalize())
    for section, part in sections.items():
        given, prefix = (values.get(section), f"{section}.") if section else (values, "")
        for key in given if isinstance(given, Mapping) else ():
            if key not in part.model_fields:
                names = [prefix + name for name in part.model_fields]
                raise ConfigError(f"{path}: {nearest(prefix + str(key), names, 'key')}")
    return checked(kind, values, path)


def refuse_unallowed(changes: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Refuse code that changes name as a backbone, and that nobody has allowed; raises ``ConfigError``."""
    for one in changes:
        if (reason := first_objection(nested(one), path)) is not None:
            raise ConfigError(reason)


def resolved(values: dict[str, Any], what: str) -> Config:
    """The configuration of nested values that name a preset; ``what`` start from it."""
    model = values.pop("model", None)
    if model is None:
        raise ConfigError(f"base.model says which preset the {what} start from, like flexdetr_nano")
    # "auto" could give them different starts, and the comparison would be of the weights.
    return resolve(str(model), **{"weights": "none", **values})


def changed(plan: Plan, overrides: Iterable[str] = (), only: Iterable[str] = (), **changes: Any) -> Plan:  # noqa: ANN401
    """The plan cut down or changed for one call.

    Args:
        plan: as it was read.
        overrides: texts like ``image_size=160`` for the base, and so for every variant that does not say otherwise.
        only: names of the variants to keep; none keeps all.
        **changes: keys of the plan; those that are None change nothing.

    Raises:
        ConfigError: if a variant is unknown or a value is wrong.
    """
    values = plan.model_dump() | {key: value for key, value in changes.items() if value is not None}
    names = [*only]
    for name in names:
        if name not in plan.variants and name != BASE:
            raise ConfigError(nearest(name, plan.variants, "variant"))
    if names:
        values["variants"] = {name: plan.variants[name] for name in plan.variants if name in names}
    values["base"] = merge(nested(plan.base), parse_overrides(overrides))
    return checked(Plan, values, "the plan")


def configurations(plan: Plan) -> dict[str, Config]:
    """The configuration of the base and of each variant, by name, the base first; seeds and budget are not in them.

    Raises:
        ConfigError: if a key or value is wrong, a key belongs to the plan, or a variant changes nothing.
    """
    base = nested(plan.base)
    built: dict[str, Config] = {}
    for name, changes in {BASE: {}, **plan.variants}.items():
        values = merge(base, nested(changes))
        try:
            built[name] = resolved(values, "runs")
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        for key, place in _PLANS_OWN.items():
            if (key == "seed" or plan.budget is not None) and _has(values, key):
                raise ConfigError(f"{name}: {key} is set by the plan itself: write it as {place}")
        if name != BASE and built[name] == built[BASE]:
            raise ConfigError(f"{name} changes nothing: its configuration is the base's")
    return built


def budgeted(config: Config, seed: int, epochs: int | None) -> Config:
    """A run's configuration: with its seed, and with its number of epochs where there is one."""
    seeded = config.model_copy(update={"seed": seed})
    return seeded if epochs is None else seeded.having(train={"epochs": epochs})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def changes_text(changes: Mapping[str, Any]) -> str:
    """A variant's changes as ``key=value`` texts."""
    return " ".join(f"{key}={value}" for key, value in flat(changes).items())


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as nested ones."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        found = merge(found, nest(str(key), value))
    return found


def as_yaml(plan: Part) -> str:
    """A plan as it is kept beside its results."""
    return yaml.safe_dump(plan.model_dump(mode="json", exclude_none=True), sort_keys=False)


def _has(values: Mapping[str, Any], key: str) -> bool:
    head, _, rest = key.partition(".")
    below = values.get(head)
    return head in values if not rest else isinstance(below, Mapping) and _has(below, rest)


def checked(kind: type[_Kind], values: Mapping[str, Any], path: str | Path) -> _Kind:
    """A plan of some kind from its values.

    Raises:
        ConfigError: with a line for each value that is wrong, and what was given.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
            lines.append(f"{path}: {key}: {message}{got}")
        raise ConfigError("\n".join(lines)) from None
