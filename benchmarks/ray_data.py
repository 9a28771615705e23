"""Pictures a second and core: one process, and the actors of Ray Data, on the same pictures and as many cores.

    python benchmarks/ray_data.py ARTIFACT PICTURES --cores 2 --rounds 3

Both write Parquet; loading the detector and beginning Ray are counted in neither: the time is that between the first
partition and the last. Rounds alternate, so that other work on the machine meets both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from flexdetr.cluster.partitions import Partition, plan, write
from flexdetr.cluster.ray_data import connected, find_all
from flexdetr.deployed import ArtifactDetector
from measure import machine, parser_of

THRESHOLD = 0.4


def alone(artifact: Path, partitions: list[Partition], cores: int) -> float:
    """Pictures a second of one process with as many threads."""
    detector = ArtifactDetector(artifact, hint="throughput", threads=cores)
    with tempfile.TemporaryDirectory() as out:
        write(detector, partitions[0], Path(out), THRESHOLD)
        began = time.perf_counter()
        done = sum(write(detector, one, Path(out), THRESHOLD)["pictures"] for one in partitions[1:])
        return done / (time.perf_counter() - began)


def with_ray(artifact: Path, partitions: list[Partition], cores: int) -> float:
    """The same of as many actors, a thread each; until each has its first partition, nothing is counted."""
    done, began = 0, 0.0
    with tempfile.TemporaryDirectory() as out:
        found = find_all(partitions, artifact, Path(out), THRESHOLD, actors=cores)
        for count, told in enumerate(found, start=1):
            if count > cores:
                done += told["pictures"]
            elif count == cores:
                began = time.perf_counter()
        return done / (time.perf_counter() - began)


def main() -> None:
    """Print the medians."""
    parser = parser_of(__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partition", type=int, default=50)
    options = parser.parse_args()
    partitions = plan([str(options.pictures)], options.partition)
    if len(partitions) < 3 * options.cores:
        raise SystemExit(
            f"{len(partitions)} partitions are too few: give more pictures, or a smaller --partition"
        )
    ones, others = [], []
    with connected(None):
        for _ in range(options.rounds):
            ones.append(alone(options.artifact, partitions, options.cores))
            others.append(with_ray(options.artifact, partitions, options.cores))
    one, other = (statistics.median(values) / options.cores for values in (ones, others))
    print(machine())
    print(
        f"{options.rounds} rounds, {len(partitions)} partitions, {options.cores} cores: pictures a second and core"
    )
    print(f"one process {one:.2f}, Ray Data {other:.2f}: {100 * (other / one - 1):+.1f} %")


if __name__ == "__main__":
    main()
