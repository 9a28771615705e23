"""What was found as Parquet."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexdetr.runtime import parquet

FOUND = {"name": "cat", "label": 3, "score": 0.5, "box_xyxy": [1.0, 2.0, 3.0, 4.5]}


def test_rows_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "_ROWS", 2)
    lines = [
        {"file": "a.jpg", "picture": None, "size": [4, 6], "objects": [FOUND | {"tracker_id": 1}, FOUND]},
        {"file": "b.mp4#000003", "size": (4, 6), "frame": 3, "seconds": 0.12, "objects": []},
        {"file": "gr\udcfc.jpg", "error": "is no image"},
    ]
    parquet.write(tmp_path / "a.parquet", iter(lines))
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    assert rows[0]["objects"] == [FOUND, FOUND]
    assert (rows[0]["height"], rows[0]["width"], rows[0]["frame"]) == (4, 6, None)
    assert (rows[1]["frame"], rows[1]["seconds"], rows[1]["objects"]) == (3, 0.12, [])
    assert (rows[2]["file"], rows[2]["objects"], rows[2]["error"]) == ("gr\\udcfc.jpg", None, "is no image")


def test_no_rows(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    parquet.write(tmp_path / "a.parquet", [])
    assert pq.read_table(tmp_path / "a.parquet").column_names == parquet.schema().names
