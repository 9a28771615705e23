"""What was found as Parquet: a row for each picture, with its objects as a list. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

_ROWS: Final = 2000  # pictures of a row group; only so many are held in memory


def schema() -> Any:  # noqa: ANN401 - of pyarrow, which is optional
    """The columns of the files.

    Returns:
        pyarrow's schema: ``file``, ``frame`` and ``seconds`` (of films), ``height`` and ``width``, ``error`` (why it
        could not be read; then all but ``file`` is null), and ``objects``, a list of structs of ``name``, ``label``,
        ``score`` and ``box_xyxy``, four floats in pixels.
    """
    import pyarrow as pa

    one = pa.struct(
        {
            "name": pa.string(),
            "label": pa.int64(),
            "score": pa.float32(),
            "box_xyxy": pa.list_(pa.float32(), 4),
        }
    )
    return pa.schema(
        {
            "file": pa.string(),
            "frame": pa.int64(),
            "seconds": pa.float64(),
            "height": pa.int32(),
            "width": pa.int32(),
            "objects": pa.list_(one),
            "error": pa.string(),
        }
    )


def row(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``detections.jsonl`` as a row."""
    height, width = line.get("size") or (None, None)
    found = line.get("objects")
    objects = None if found is None else [{key: one[key] for key in _OBJECT} for one in found]
    return {
        "file": _valid(line["file"]),
        "frame": line.get("frame"),
        "seconds": line.get("seconds"),
        "height": height,
        "width": width,
        "objects": objects,
        "error": line.get("error"),
    }


_OBJECT: Final = ("name", "label", "score", "box_xyxy")


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write lines of ``detections.jsonl`` as a Parquet file, some thousand at a time.

    Raises:
        ModuleNotFoundError: if pyarrow is not installed.
        OSError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: Iterator[dict[str, Any]] = (row(line) for line in lines)
    columns = schema()
    with pq.ParquetWriter(path, columns) as writer:
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=columns))


def _valid(text: str) -> str:
    """A file's name as Parquet takes it: bytes that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
