"""The option that shares sources out over processes and machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import typer

from flexdetr.cli import answers

Share = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N|auto|auto/N",
        help="The I-th of N shares of the sources, from 0; auto: from Slurm's or Kubernetes' variables.",
    ),
]

# Variables that number per process, each with the one that says how many there are.
_NUMBERED = (("SLURM_PROCID", "SLURM_NTASKS"), ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"))


class Shard(NamedTuple):
    """A share of the sources.

    Attributes:
        number: from 0.
        total: how many there are.
    """

    number: int
    total: int

    @property
    def name(self) -> str:
        """The name of its folder below ``--out``."""
        return f"shard-{self.number:05d}-of-{self.total:05d}"


def shard_of(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """The share that ``--shard`` names.

    Args:
        text: "2/8", or "auto" with SLURM_PROCID and SLURM_NTASKS or JOB_COMPLETION_INDEX and JOB_COMPLETIONS, or
            "auto/8" with the first of a pair alone (Kubernetes does not tell how many there are).
        environment: variables.

    Raises:
        UsageError: if it names none.
    """
    number, mark, count = text.partition("/")
    if number == "auto":
        pair = next((pair for pair in _NUMBERED if pair[0] in environment), None)
        if pair is None:
            raise answers.UsageError(
                f"--shard {text}: neither SLURM_PROCID nor JOB_COMPLETION_INDEX is set; name the share, like 0/8"
            )
        number = environment[pair[0]]
        if not mark:
            count = environment.get(pair[1], "")
            if not count:
                raise answers.UsageError(
                    f"--shard auto: {pair[1]} is not set; say how many there are: auto/8"
                )
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise answers.UsageError(f"--shard takes I/N with I from 0 to N-1, like 0/8; got {number}/{count}")
    return Shard(int(number), int(count))
