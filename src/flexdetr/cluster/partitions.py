"""Sources cut into partitions, each of which is found and written for itself: what is complete is not begun again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from flexdetr.cluster.buckets import is_bucket, listed, read_bytes
from flexdetr.files import replacing, write_whole
from flexdetr.runtime.sources import Item, Missing, Unreadable, find

if TYPE_CHECKING:
    from flexdetr.deployed import ArtifactDetector
    from flexdetr.runtime.thresholds import Threshold

Thing = TypeVar("Thing")

SIZE: Final = 1000
_PLAN: Final = "partitions.json"
# Of pictures that are held as bytes, so many are in memory at a time.
_HELD: Final = 64
_BYTES: Final = ("bytes", "image", "content", "jpg")
_NAMES: Final = ("file", "path", "file_name", "name", "id")


class PartitionError(ValueError):
    """Sources or a folder of partitions that cannot be used; the message says why."""


@dataclass(frozen=True)
class Partition:
    """A part of the sources.

    Attributes:
        number: from 0.
        kind: "paths" of files, addresses "in_buckets", or "rows" of a Parquet file with pictures as bytes.
        names: the pictures; of rows the Parquet file alone.
        first: of rows, the first.
        stop: of rows, the one behind the last.
    """

    number: int
    kind: Literal["paths", "in_buckets", "rows"]
    names: tuple[str, ...]
    first: int = 0
    stop: int = 0

    def file(self, out: Path) -> Path:
        """Where it is written."""
        return out / f"part-{self.number:06d}.parquet"


def plan(sources: Sequence[str], size: int = SIZE, *, leave_out: Path | None = None) -> list[Partition]:
    """Cut sources into partitions, the same ones for the same sources.

    Addresses are those that fsspec knows (``s3://bucket/pictures/``). A partition has ``size`` pictures;
    ``leave_out`` is a folder that is passed over below others.

    Raises:
        PartitionError: if a source is none of these, or there is no picture. A path that leads nowhere becomes a row
            with an error.
        BucketError: if an address leads nowhere.
    """
    rows: list[str] = []
    buckets: list[str] = []
    others: list[str] = []
    for source in sources:
        if source.lower().endswith(".parquet") and not is_bucket(source):
            rows.append(source)
        else:
            (buckets if is_bucket(source) else others).append(source)
    items = find(others, leave_out=leave_out) if others else []
    for item in items:
        if not isinstance(item.content, Path | Missing):
            raise PartitionError(
                f"{item.name}: --engine ray reads files, folders, lists, Parquet files and addresses of buckets; the "
                "local engine reads http addresses, streams, cameras and pictures on standard input"
            )
    found: list[Partition] = []
    for names in _by((item.name for item in items), size):
        found.append(Partition(len(found), "paths", tuple(names)))
    for names in _by((name for source in buckets for name in listed(source)), size):
        found.append(Partition(len(found), "in_buckets", tuple(names)))
    for file in rows:
        count = _rows_of(Path(file))
        for first in range(0, count, size):
            found.append(Partition(len(found), "rows", (file,), first, min(first + size, count)))
    if not found:
        raise PartitionError(f"{', '.join(sources)}: there is no picture")
    return found


def begin(out: Path, partitions: Sequence[Partition], seal: str, threshold: Threshold) -> list[Partition]:
    """Make the folder, or go on in it.

    Returns:
        Those that are still to be found.

    Raises:
        PartitionError: if the folder holds the partitions of something else.
        OSError: if it cannot be written.
    """
    told = json.dumps([seal, threshold, [asdict(one) for one in partitions]], sort_keys=True)
    content = {
        "partitions": len(partitions),
        "threshold": threshold,
        "of": hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest(),
    }
    file = out / _PLAN
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != content:
            raise PartitionError(
                f"{out} holds partitions of other sources, or of another artifact, threshold or size of partitions: "
                "choose another --out, or delete it"
            )
    elif out.exists() and any(out.glob("part-*.parquet")):
        raise PartitionError(f"{out} holds Parquet files of something else: choose another --out")
    else:
        write_whole(file, json.dumps(content) + "\n")
    return [one for one in partitions if not one.file(out).exists()]


def write(
    detector: ArtifactDetector, partition: Partition, out: Path, threshold: Threshold
) -> Mapping[str, int]:
    """Find what is in a partition, and write its file: it is there whole, or not at all.

    Returns:
        How many pictures were answered, how many could not be read, and how many objects were found.
    """
    from flexdetr.runtime.parquet import write as write_parquet

    counted = {"pictures": 0, "failed": 0, "objects": 0}

    def lines() -> Iterator[dict[str, Any]]:
        for line in _found(detector, partition, threshold):
            counted["failed" if "error" in line else "pictures"] += 1
            counted["objects"] += len(line.get("objects", ()))
            yield line

    with replacing(partition.file(out)) as draft:
        write_parquet(draft, lines())
    return counted


def tell(file: Path) -> Mapping[str, int]:
    """What ``write`` gave for a partition that is there."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["objects", "error"])
    failed = table.num_rows - table["error"].null_count
    objects = pc.sum(pc.list_value_length(table["objects"])).as_py() or 0
    return {"pictures": table.num_rows - failed, "failed": failed, "objects": objects}


def _found(
    detector: ArtifactDetector, partition: Partition, threshold: Threshold
) -> Iterator[dict[str, Any]]:
    """Lines as those of ``detections.jsonl``."""
    for items in _items(partition):
        readable = [item for item in items if not isinstance(item.content, Missing)]
        for item in items:
            if isinstance(item.content, Missing):
                yield {"file": item.name, "error": item.content.reason}
        for answer in detector.predict_many(readable, threshold):
            if isinstance(answer, Unreadable):
                yield {"file": answer.name, "error": answer.reason}
                continue
            picture, found = answer
            line: dict[str, Any] = {"file": picture.name, "size": list(picture.image.shape[:2])}
            if picture.frame is not None:
                line |= {"frame": picture.frame, "seconds": picture.seconds}
            yield line | {"objects": found.to_json()}


def _items(partition: Partition) -> Iterator[list[Item]]:
    """Pictures, as many at a time as may be held."""
    if partition.kind == "paths":
        yield [Item(name, Path(name)) for name in partition.names]
    elif partition.kind == "in_buckets":
        for names in _by(partition.names, _HELD):
            yield [_fetched(name) for name in names]
    else:
        yield from _by(_stored(partition), _HELD)


def _by(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    """Some at a time."""
    left = iter(things)
    while some := list(islice(left, size)):
        yield some


def _fetched(name: str) -> Item:
    try:
        return Item(name, io.BytesIO(read_bytes(name)))
    except OSError as error:
        return Item(name, Missing(f"{name}: cannot be read: {error}"))


def _rows_of(file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise PartitionError(f"{file}: cannot be read as Parquet: {error}") from error
    _column(opened.schema_arrow.names, _BYTES, file)
    return int(opened.metadata.num_rows)


def _column(names: Iterable[str], wanted: Sequence[str], file: Path) -> str:
    known = set(names)
    found = next((name for name in wanted if name in known), None)
    if found is None:
        raise PartitionError(
            f"{file}: has no column of pictures as bytes; one of {', '.join(_BYTES)} is read, and there are "
            f"{', '.join(sorted(known))}"
        )
    return found


def _stored(partition: Partition) -> Iterator[Item]:
    """The pictures of a partition's rows; a name that there is none of is the file's with the row's number."""
    import pyarrow.parquet as pq

    path = Path(partition.names[0])
    file = pq.ParquetFile(path)
    pictures = _column(file.schema_arrow.names, _BYTES, path)
    named = next((name for name in _NAMES if name in file.schema_arrow.names), None)
    columns = [pictures] if named is None else [pictures, named]
    row, group = 0, 0
    while row < partition.stop and group < file.metadata.num_row_groups:
        count = file.metadata.row_group(group).num_rows
        if row + count > partition.first:
            for place, values in enumerate(_rows(file, group, columns), start=row):
                if partition.first <= place < partition.stop:
                    yield _stored_item(values, pictures, named, f"{path}#{place:06d}")
        row, group = row + count, group + 1


def _rows(file: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - of pyarrow
    for batch in file.iter_batches(_HELD, row_groups=[group], columns=columns):
        yield from batch.to_pylist()


def _stored_item(values: Mapping[str, Any], pictures: str, named: str | None, otherwise: str) -> Item:
    content = values[pictures]
    name = otherwise if named is None or values[named] is None else str(values[named])
    if isinstance(content, Mapping):  # as Hugging Face's data sets store pictures
        name = str(content.get("path") or name) if named is None else name
        content = content.get("bytes")
    if not isinstance(content, bytes):
        return Item(name, Missing(f"{name}: the row holds no bytes"))
    return Item(name, io.BytesIO(content))
