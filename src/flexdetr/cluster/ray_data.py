"""Partitions found by actors of Ray Data, each of which holds an exported detector. Needs ray."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from flexdetr.cluster.partitions import Partition, tell, write
from flexdetr.runtime.thresholds import Threshold

_SECONDS: Final = 5.0


class ClusterError(RuntimeError):
    """No Ray, or no cluster at an address; the message says what to do."""


class Finder:
    """What an actor holds: a detector from an artifact, on one core.

    The artifact and the folder ``out`` are in the same places on every machine.
    """

    def __init__(self, artifact: str, out: str, threshold: Threshold, threads: int) -> None:
        from flexdetr.deployed import ArtifactDetector

        self.detector = ArtifactDetector(artifact, hint="throughput", threads=threads)
        self.out, self.threshold = Path(out), threshold

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Find and write the partitions of a batch of Ray's; those that are there already are left alone."""
        rows = []
        for text in batch["partition"].tolist():
            content = json.loads(text)
            partition = Partition(**{**content, "names": tuple(content["names"])})
            file = partition.file(self.out)
            # One that is there was written by an actor that died before it could say so.
            told = tell(file) if file.exists() else write(self.detector, partition, self.out, self.threshold)
            rows.append({"number": partition.number, **told})
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """A connection to Ray, which is closed at the end.

    Args:
        address: of a cluster, like "10.0.0.1:6379", "ray://10.0.0.1:10001" or "auto"; None takes RAY_ADDRESS, and
            begins one on this machine where that is not set.

    Raises:
        ClusterError: if ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--engine ray needs Ray: pip install 'flexdetr[ray]'") from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None and address not in ("auto", "local"):
        _check_reachable(address)
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    began = not ray.is_initialized()
    if began:
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"there is no Ray cluster at {address or 'this machine'}: {' '.join(str(error).split())}"
            ) from error
    # Ray tells of actors that died on standard output, where answers go, until it is shut down.
    with redirect_stdout(sys.stderr):
        try:
            yield ray
        finally:
            if began:
                ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ask whether anything listens: Ray itself waits for minutes."""
    host, mark, port = address.rpartition("://")[2].rpartition(":")
    if not (mark and host and port.isdecimal()):
        raise ClusterError(f"a Ray cluster's address is HOST:PORT, ray://HOST:PORT or auto; got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"there is no Ray cluster at {address} ({error}): start one with `ray start --head`, or leave the address "
            "out to use this machine"
        ) from error


def find_all(
    partitions: Sequence[Partition],
    artifact: Path,
    out: Path,
    threshold: Threshold,
    *,
    address: str | None = None,
    actors: int | None = None,
    threads: int = 1,
) -> Iterator[dict[str, int]]:
    """Find and write partitions, as they are done.

    Ray hands a partition to whichever actor is free, and no more than that are in work: what waits is names. An actor
    that dies is begun again, and so is its partition, of which nothing was written.

    Without ``actors``, there are as many as the cluster has cores for; ``threads`` are cores of each.

    Yields:
        For each partition its number, and what ``partitions.write`` counts.

    Raises:
        ClusterError: see ``connected``.
    """
    with connected(address) as ray:
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = max(1, min(actors or cores // threads, len(partitions)))
        texts = [{"partition": json.dumps(asdict(one))} for one in partitions]
        data = ray.data.from_items(texts, override_num_blocks=len(texts))
        answered = data.map_batches(
            Finder,
            fn_constructor_args=(str(artifact.resolve()), str(out.resolve()), threshold, threads),
            batch_size=1,
            compute=ActorPoolStrategy(size=count),
            num_cpus=threads,
        )
        for one in answered.iter_rows():
            yield {name: int(value) for name, value in one.items()}
