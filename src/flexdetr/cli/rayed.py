"""``predict --engine ray``: partitions of Parquet, found by the actors of a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexdetr.cli import answers
from flexdetr.cli.evaluate import one_of

if TYPE_CHECKING:
    from flexdetr.runtime.thresholds import Threshold

Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="ray: find partitions with the actors of Ray Data, and write Parquet files to --out.",
        callback=one_of("engine", ("local", "ray")),
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT|ray://HOST:PORT|auto",
        help="Address of the cluster [default: RAY_ADDRESS, else this machine].",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Ray actors, one core each [default: as many as there are cores]."),
]
PartitionSize = Annotated[
    int, typer.Option("--partition", metavar="N", min=1, help="Pictures per partition, with --engine ray.")
]


@dataclass(frozen=True)
class RayRun:
    """What is to be found."""

    file: str
    sources: list[str]
    out: Path
    threshold: Threshold
    address: str | None
    actors: int | None
    size: int


def check_local(address: str | None, actors: int | None) -> None:
    """Refuse what only Ray takes.

    Raises:
        UsageError: with the option.
    """
    for name, given in (("--ray-address", address), ("--actors", actors)):
        if given is not None:
            raise answers.UsageError(f"{name} is for --engine ray")


def find_with_ray(run: RayRun, *, as_json: bool, **others: bool) -> None:
    """Find partitions and write them; those that are there already are left as they are.

    Args:
        run: what to find.
        as_json: print the counts as JSON.
        **others: options that Ray's actors do not take, by name, and whether they were given.

    Raises:
        UsageError: if one of these was given, or the file is no artifact.
        PartitionError, ClusterError: if the sources, the folder or the cluster cannot be used.
        Exit: with 1 if a picture could not be read.
    """
    from flexdetr.cluster.partitions import begin, plan, tell
    from flexdetr.cluster.ray_data import find_all
    from flexdetr.runtime.artifact import is_artifact, open_artifact

    given = [f"--{name}" for name, typed in others.items() if typed]
    if given:
        raise answers.UsageError(f"--engine ray takes no {' and no '.join(given)}")
    if not is_artifact(run.file):
        raise answers.UsageError(
            f"--engine ray takes an exported detector, which needs no torch; first: flexdetr export {run.file}"
        )
    artifact = open_artifact(run.file)
    if artifact.metadata.task != "detect":
        raise answers.UsageError(f"--engine ray is for detectors; {run.file} is for {artifact.metadata.task}")
    partitions = plan(run.sources, run.size, leave_out=run.out)
    waiting = begin(run.out, partitions, artifact.metadata.seal, run.threshold)
    done = len(partitions) - len(waiting)
    if done:
        answers.note(f"{done} of {len(partitions)} partitions are there already")
    total = {"pictures": 0, "failed": 0, "objects": 0}
    if waiting:
        found = find_all(
            waiting, artifact.path, run.out, run.threshold, address=run.address, actors=run.actors
        )
        with answers.counting("finding partitions") as show_count:
            for count, _ in enumerate(found, start=done + 1):
                show_count(count, len(partitions))
    for one in partitions:
        for name, value in tell(one.file(run.out)).items():
            total[name] += value
    if as_json:
        answers.show_json({"partitions": len(partitions), **total, "out": str(run.out)})
    else:
        answers.show(
            f"{total['pictures']:,} pictures, {total['objects']:,} objects, {total['failed']:,} not read, in "
            f"{len(partitions)} partitions: {run.out}"
        )
    if total["failed"]:
        raise typer.Exit(1)
