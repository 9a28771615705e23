"""What an ablation keeps in its folder between calls, read back: people copy, merge and edit such folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flexdetr.config import ConfigError


class ResultRecord(BaseModel):
    """The result of a run, see ``runs.Result``; None stands for nan, which JSON has not."""

    model_config = ConfigDict(extra="forbid")

    ap: float | None
    ap50: float | None
    seconds: float | None
    epochs: int
    best_epoch: int
    num_classes: int = 0
    failed: str = ""


class RunRecord(BaseModel):
    """A run: what it was made with, and what it has reached once it has finished."""

    config: dict[str, Any]
    split: str
    data: str
    fingerprint: int
    result: ResultRecord | None


class VariantCost(BaseModel):
    """A variant's cost, see ``cost.Cost``, and the parts of its configuration that it depends on."""

    config: dict[str, Any]
    params: int
    gflops: float
    params_training: int
    gflops_training: float
    latency_ms: float


class CostsFile(BaseModel):
    """The costs of all variants, and the machine on which they were measured."""

    machine: str = ""
    variants: dict[str, VariantCost] = {}


class Epochs(BaseModel):
    """How many epochs of a variant fit into the minutes of the budget, and from what that follows."""

    config: dict[str, Any]
    minutes: float
    epoch_seconds: float
    evaluation_seconds: float
    epochs: int = Field(gt=0)


class CandidateRecord(BaseModel):
    """A candidate of a search: what it chose, and its milliseconds beside the base's, measured in alternation.

    ``refused`` says why it has none; ``ap`` is what its first rung reached, where that is over.
    """

    model_config = ConfigDict(extra="forbid")

    choices: dict[str, Any]
    milliseconds: float | None = None
    base_milliseconds: float | None = None
    refused: str = ""
    ap: float | None = None
    trained: bool = False


class SearchRecord(BaseModel):
    """What a search has tried, in order, and how it was told to look."""

    plan: dict[str, Any]
    machine: str
    candidates: list[CandidateRecord] = []


SEARCH: Final = TypeAdapter(SearchRecord)
RUN: Final = TypeAdapter(RunRecord)
COSTS: Final = TypeAdapter(CostsFile)
EPOCHS: Final = TypeAdapter(dict[str, Epochs])  # by variant

Record = TypeVar("Record")


def read_record(path: Path, kind: TypeAdapter[Record], remedy: str) -> Record | None:
    """What a file of the folder holds; None if there is no such file.

    Args:
        path: the file.
        kind: what it should hold: ``RUN``, ``COSTS`` or ``EPOCHS``.
        remedy: what to do where it does not, for the message.

    Raises:
        ConfigError: if it cannot be read, or holds something else.
    """
    if not path.exists():
        return None
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(key) for key in problem["loc"])
        reason = f"{place}: {problem['msg']}" if place else problem["msg"]
        raise ConfigError(f"{path} is damaged ({reason}); {remedy}") from error
